import re
from pathlib import Path

import pytest

from training.cleaning.reasons import explain

TRAINING = Path(__file__).parents[3] / "training"
READERS = [*(TRAINING / "reading").glob("*.py"), TRAINING / "sources.py"]
RULES = [
    "gopher_quality_filter",
    "gopher_repetition_filter",
    "c4_filters",
    "fineweb_quality_filter",
]


def named(pattern: str, text: str) -> set[str]:
    return {name.removeprefix("gopher_") for name in re.findall(pattern, text)}


def test_every_reason_of_a_reader_is_explained() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in READERS)
    reasons = named(r'(?:MalformedRowError\(|make_dropped\([^")]*)"(\w+)"', sources)
    assert len(reasons) >= 19
    assert [reason for reason in reasons if not explain("read", reason)] == []


@pytest.mark.parametrize("rule", RULES)
def test_every_reason_of_datatroves_rules_is_explained(rule: str) -> None:
    from datatrove.pipeline import filters

    text = (Path(filters.__file__).parent / f"{rule}.py").read_text(encoding="utf-8")
    reasons = named(r'return False, "(\w+)"', text) - {
        "enough_stop_words", "document_removed_with_badwords",
    }  # fmt: skip
    assert reasons
    assert [reason for reason in reasons if not explain("quality", reason)] == []


def test_reasons_name_the_setting() -> None:
    assert explain("quality", "short_doc") == "fewer words than min_words"
    assert explain("repetition", "top_2_gram").endswith("max_top_ngrams or max_duplicate_ngrams")
    assert explain("language", "de") == "not among the languages of [data.language] keep"
    assert explain("quality", "of another version") == ""
