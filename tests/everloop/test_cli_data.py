"""The verbs of dataset versions on a small corpus."""

import json
from pathlib import Path
from typing import Any

import pytest

from everloop.cli import main
from everloop.settings import Home
from feedback.store.store import open_store
from tests.training.cleaning.corpus import sentence


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    lines = [sentence(number) for number in range(30)] + ["short"]
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


def everloop(home: Home, capfd: pytest.CaptureFixture[str], *arguments: str) -> Any:
    with pytest.raises(SystemExit) as end:
        main(["data", *arguments, "--home", str(home.root), "--json"])
    assert end.value.code == 0
    return json.loads(capfd.readouterr().out)


def test_build_show_diff_verify(
    corpus: Path, home: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ("--set", f"data.sources=['{corpus}']", "--set", "data.validation_share=0.3")
    first = everloop(home, capfd, "build", *options)
    assert first["dropped"] == {"length": {"too_short": 1}}
    (dropped,) = everloop(home, capfd, "show", "--dropped")
    assert (dropped["step"], dropped["text"]) == ("length", "short")
    rows = everloop(home, capfd, "show", "--rows", "--only", "validation", "--limit", "2")
    assert [row["split"] for row in rows] == ["validation"] * 2
    with corpus.open("a") as file:
        file.write(json.dumps({"text": sentence(99)}) + "\n")
    second = everloop(home, capfd, "build", *options)
    listed = everloop(home, capfd, "list")
    assert [(one["dataset"], one["rows"]) for one in listed] == [
        (first["id"], 30),
        (second["id"], 31),
    ]
    found = everloop(home, capfd, "diff", first["id"], second["id"][:8])
    assert (found["kept"], found["added"], found["removed"], found["moved"]) == (
        30, {"text": 1}, {}, {},
    )  # fmt: skip
    assert found["added rows"][0]["text"] == sentence(99)
    assert everloop(home, capfd, "verify")["dataset"] == second["id"]
    store = open_store(home.database_url)
    assert f"{corpus}:1" in store.dataset(second["id"]).documents.values()
    store.close()


@pytest.mark.parametrize("name", ["rows.jsonl", "dropped.jsonl", "documents.jsonl", "dataset.json"])
def test_verify_finds_any_changed_byte(
    corpus: Path, home: Home, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    options = ("--set", f"data.sources=['{corpus}']", "--set", "data.validation_share=0.3")
    folder = home.data / everloop(home, capfd, "build", *options)["id"]
    content = (folder / name).read_bytes()
    place = content.index(b"t")
    (folder / name).write_bytes(content[:place] + b"x" + content[place + 1 :])
    with pytest.raises(SystemExit) as end:
        main(["data", "verify", folder.name, "--home", str(home.root)])
    assert end.value.code == 2
    assert name in capfd.readouterr().err


def test_an_unknown_dataset_is_named(home: Home, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["data", "show", "ds-9", "--home", str(home.root)])
    assert end.value.code == 2
    assert "no dataset begins with 'ds-9'; known: none yet." in capfd.readouterr().err


def test_build_for_people_says_what_went_and_why(
    corpus: Path, home: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["data", "build", "--set", f"data.sources=['{corpus}']", "--home", str(home.root),
              "--set", "data.validation_share=0.3"])  # fmt: skip
    assert end.value.code == 0
    shown = capfd.readouterr().out
    assert "kept         30 of 31 documents (97%)\n" in shown
    assert "1  length: too short (fewer characters than min_characters)" in shown
    assert "card.html" in shown
    assert "{" not in shown
    with pytest.raises(SystemExit):
        main(["tokenizer", "train", "--home", str(home.root)])
    assert "bytes per token)" in capfd.readouterr().out


def test_a_file_of_another_type_is_said_aloud(
    corpus: Path, home: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    (corpus.parent / "logo.png").write_bytes(b"PNG")
    everloop(home, capfd, "build", "--set", f"data.sources=['{corpus.parent}/*.*']",
             "--set", "data.validation_share=0.3")  # fmt: skip
    (dropped,) = everloop(home, capfd, "show", "--dropped", "--only", "file_type")
    assert dropped["source"].endswith("logo.png")
    assert dropped["collection"] == "*.*"
