import re
import shutil
import subprocess
from pathlib import Path

import pytest

from everloop.settings import Home
from tests.training.cleaning.corpus import config, write_corpus
from training.corpus import Dropped
from training.data_card import CardBuilder, DataCard
from training.dataset import build_dataset

HOSTILE = "short <script>alert(1)</script>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose drops try to break out of the page."""
    root = tmp_path_factory.mktemp("card")
    corpus = write_corpus(root / "corpus", files=2)
    with (corpus / "0.jsonl").open("a") as file:
        file.write(f'{{"text": "{HOSTILE}"}}\n')
    home = Home(root / "home")
    return home.data / build_dataset(config(corpus), home).id


@pytest.fixture(scope="module")
def card(folder: Path) -> DataCard:
    return DataCard.model_validate_json((folder / "card.json").read_text(encoding="utf-8"))


def test_card_counts_what_was_read_kept_and_dropped(card: DataCard) -> None:
    assert (card.read, card.dataset.rows) == (33, 26)
    assert card.left_after == {"length": 30, "duplicates": 26}
    (collection,) = card.collections
    assert (collection.name, collection.licence, collection.rows) == ("corpus", "MIT", 26)
    assert collection.dropped == 7
    assert card.characters == collection.characters > 26 * 100
    assert sum(one.rows for one in card.lengths) == 26
    assert all(one.low < one.high for one in card.lengths)
    assert sum(card.languages.values()) == 26
    assert sum(card.repeated.values()) == 4


def test_card_samples_every_reason_and_kind(card: DataCard) -> None:
    reasons = {(sample.step, sample.reason) for sample in card.drop_samples}
    assert reasons == {
        ("length", "too_short"), ("duplicates", "duplicate"), ("duplicates", "near_duplicate"),
    }  # fmt: skip
    assert len([one for one in card.drop_samples if one.step == "length"]) == 3
    assert {sample.kind for sample in card.row_samples} == {"text"}


def test_page_needs_nothing_else_and_escapes_texts(folder: Path) -> None:
    page = (folder / "card.html").read_text(encoding="utf-8")
    assert re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", page) == []
    assert HOSTILE not in page
    assert "short &lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count('class="plot"') == 4
    assert "near duplicate" in page


def test_page_says_why_in_words_and_names_the_setting(folder: Path) -> None:
    page = (folder / "card.html").read_text(encoding="utf-8")
    assert "fewer characters than min_characters" in page
    assert page.index("<b>length</b>") < page.index("<b>duplicates</b>")


def test_a_source_of_which_nothing_stays_is_on_the_card(card: DataCard) -> None:
    builder = CardBuilder()
    builder.drop(
        Dropped(id="a", source="a", step="read", reason="no_text", text="", collection="b")
    )
    (collection,) = builder.finish(card.dataset, {}).collections
    assert (collection.name, collection.rows, collection.dropped) == ("b", 0, 1)


def test_card_is_the_same_in_every_build(folder: Path, card: DataCard, tmp_path: Path) -> None:
    corpus = folder.parents[2] / "corpus"
    home = Home(tmp_path)
    again = home.data / build_dataset(config(corpus), home).id / "card.json"
    other = DataCard.model_validate_json(again.read_text(encoding="utf-8"))
    fields = {"built_at", "dataset"}
    assert other.model_dump(exclude=fields) == card.model_dump(exclude=fields)


@pytest.mark.slow
def test_page_draws_every_plot_in_a_browser(folder: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no chromium on this machine")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
               "--virtual-time-budget=10000", f"--user-data-dir={tmp_path}",
               (folder / "card.html").as_uri()]  # fmt: skip
    page = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout.decode()
    for name in ("funnel", "lengths", "languages", "masked"):
        plot = page.partition(f'id="plot-{name}"')[2].partition("</section>")[0]
        assert plot.count('class="point"') > 0, name
