import gzip
import hashlib
import json
import random
from pathlib import Path

import pytest

from everloop.errors import ConfigError, DataError
from everloop.records import DatasetInfo, Message, content_hash
from everloop.settings import Home, RunFile
from training import python_docs
from training.dataset import (
    DataConfig,
    build_dataset,
    read_dropped,
    read_rows,
    split_of,
    verify_dataset,
    write_dataset,
)
from training.dataset_folder import read_origins

ANIMALS = ("fox", "dog", "owl", "cat", "hen", "cow", "pig", "bee", "ant", "elk")

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "r", "l", "st")]


def sentence(number: int) -> str:
    """Words of the number's own among a few that all have."""
    words = random.Random(number).sample(WORDS, 20)
    return f"The {ANIMALS[number % 10]} of house {number} knows the words {' '.join(words)}."


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    rows: list[object] = [{"text": sentence(number)} for number in range(60)]
    rows += [
        {
            "messages": [
                {"role": "user", "content": f"Who lives in house {number}?"},
                {"role": "assistant", "content": f"The {ANIMALS[number % 10]}: a{number}@b.org"},
            ]
        }
        for number in range(60)
    ]
    rows += [{"text": sentence(3)}, {"text": "too short"}, {"title": "by c@d.org"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def config(path: Path, **settings: object) -> DataConfig:
    return DataConfig.model_validate({"sources": [str(path)], "licence": "MIT", **settings})


def build(path: Path, home: Home, **settings: object) -> DatasetInfo:
    return build_dataset(config(path, **settings), home)


def test_build_dataset_keeps_counts_and_reasons(corpus: Path, home: Home) -> None:
    seen: dict[str, int] = {}
    info = build_dataset(config(corpus), home, lambda title, done: seen.update({title: done}))
    assert sum(info.counts["train"].values()) + sum(info.counts["validation"].values()) == 120
    assert info.rows == 120
    assert info.dropped == {
        "duplicates": {"duplicate": 1},
        "length": {"too_short": 1},
        "read": {"no_text": 1},
    }
    assert info.masked == {"email": 60}
    assert (info.sources, info.licences, info.python_version) == ((str(corpus),), ("MIT",), None)
    assert seen == {"read and clean": 122, "find duplicates, tasks": 3}
    dropped = list(read_dropped(home.data / info.id))
    assert {(item.source, item.text) for item in dropped} == {
        (f"{corpus}:121", sentence(3)),
        (f"{corpus}:122", "too short"),
        (f"{corpus}:123", '{"title": "by <EMAIL>"}'),
    }


def test_build_dataset_writes_rows_that_name_their_document(corpus: Path, home: Home) -> None:
    info = build(corpus, home)
    rows = list(read_rows(home.data / info.id))
    assert rows[0].text == sentence(0)
    digest = hashlib.sha256(sentence(0).encode()).hexdigest()
    assert rows[0].sources[0].id == f"sha256:{digest}"
    origin = next(read_origins(home.data / info.id))
    assert (origin.row, origin.document) == (rows[0].id, f"sha256:{digest}")
    assert (origin.source, origin.licence, origin.collection) == (
        f"{corpus}:1",
        "MIT",
        "corpus.jsonl",
    )
    assert rows[60].messages is not None
    assert rows[60].messages[1].content == "The fox: <EMAIL>"
    assert all(row.id == content_hash(row.text, row.messages) for row in rows)


def test_build_dataset_twice_gives_one_version(corpus: Path, home: Home) -> None:
    assert build(corpus, home) == build(corpus, home)
    assert len(list(home.data.iterdir())) == 1


def test_build_dataset_never_moves_a_document_when_data_is_added(corpus: Path, home: Home) -> None:
    before = {row.id: row.split for row in read_rows(home.data / build(corpus, home).id)}
    with corpus.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": sentence(number)}) + "\n" for number in range(90, 150))
    after = {row.id: row.split for row in read_rows(home.data / build(corpus, home).id)}
    assert len(after) > len(before)
    assert {key: after[key] for key in before} == before


def test_split_of_keeps_its_promise() -> None:
    sides = [split_of(f"doc/{number}", 0.1, seed=0) for number in range(10_000)]
    assert 900 < sides.count("validation") < 1100
    assert split_of("stdlib/os.path", 0.5, seed=7) == split_of("stdlib/os.path", 0.5, seed=7)
    digest = hashlib.sha256(b"0:doc/1").digest()
    assert (sides[1] == "validation") == (digest[0] < 26 and int.from_bytes(digest[:2]) < 6554)


@pytest.mark.parametrize(("share", "side"), [(1e-9, "validation"), (1 - 1e-9, "train")])
def test_build_dataset_refuses_a_split_with_an_empty_side(
    corpus: Path, home: Home, share: float, side: str
) -> None:
    with pytest.raises(DataError, match=f"leaves no {side} data: all 60 chat rows"):
        build(corpus, home, validation_share=share)
    assert list(home.data.iterdir()) == []


def test_build_dataset_refuses_an_empty_corpus(tmp_path: Path, home: Home) -> None:
    (tmp_path / "a.txt").write_text("\n \n")
    with pytest.raises(DataError, match=r"the corpus is empty: .*a\.txt holds no text"):
        build(tmp_path / "a.txt", home)


def test_build_dataset_leaves_the_last_version_alone_when_a_file_is_cut_short(
    corpus: Path, home: Home
) -> None:
    before = build(corpus, home)
    packed = gzip.compress(corpus.read_bytes())
    (corpus.parent / "b.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"b\.jsonl\.gz is damaged or cut short"):
        build(corpus.parent / "b.jsonl.gz", home)
    assert verify_dataset(home.data / before.id) == before


def test_sources_of_their_own_stand_alone(corpus: Path) -> None:
    table = DataConfig.model_validate({"source": [{"path": str(corpus), "name": "houses"}]})
    assert table.source_names == ("houses",)
    both = DataConfig.model_validate({"source": [{"path": "a"}], "sources": ["python-docs"]})
    assert both.source_names == ("python-docs", "a")
    assert DataConfig().source_names == ("python-docs",)


def test_build_dataset_refuses_no_source(home: Home) -> None:
    with pytest.raises(DataError, match=r"data\.sources and data\.source are both empty"):
        build_dataset(DataConfig(sources=()), home)


def test_build_dataset_records_the_parent_that_it_extends(corpus: Path, home: Home) -> None:
    with pytest.raises(DataError, match="ds-9 is no dataset version"):
        build(corpus, home, parent="ds-9")
    parent = write_dataset([], home, sources=[], licences=[]).id
    info = build(corpus, home, parent=parent, test_share=0.3)
    assert info.parent == parent
    assert set(info.counts) == {"train", "validation", "test"}


def test_a_test_share_comes_out_of_the_training_side_alone() -> None:
    ids = [f"doc/{number}" for number in range(2000)]
    before = {name: split_of(name, 0.1, seed=0) for name in ids}
    after = {name: split_of(name, 0.1, seed=0, test_share=0.2) for name in ids}
    assert {before[name] for name in ids if after[name] == "test"} == {"train"}
    assert all(before[name] == side for name, side in after.items() if side != "test")
    assert 340 < list(after.values()).count("test") < 460


def test_build_dataset_drops_what_the_model_will_be_judged_by(
    corpus: Path, home: Home, tmp_path: Path
) -> None:
    evaluation = tmp_path / "eval.jsonl"
    evaluation.write_text(json.dumps({"text": sentence(7)}) + "\n")
    with pytest.raises(DataError, match=r"data\.decontamination\.sets: gone\.jsonl does not exist"):
        build(corpus, home, decontamination={"sets": {"houses": "gone.jsonl"}})
    info = build(corpus, home, decontamination={"sets": {"houses": str(evaluation)}})
    assert info.dropped["decontamination"] == {"houses": 1}


def test_build_dataset_says_which_rule_left_nothing(corpus: Path, home: Home) -> None:
    corpus.write_text(json.dumps({"text": "short"}) + "\n")
    with pytest.raises(DataError, match=r"by length \(too_short, 1 of 1: fewer characters"):
        build(corpus, home)


def test_build_dataset_refuses_an_unknown_topic(corpus: Path, home: Home) -> None:
    with pytest.raises(DataError, match="the corpus has no topic 'os'"):
        build(corpus, home, exclude_topics=["os"])


def test_table_reads_toml_and_names_an_unknown_key(tmp_path: Path) -> None:
    run = RunFile.load(Path("configs/python-docs.toml"), ('data.exclude_topics=["unittest"]',))
    table = run.table("data", DataConfig)
    assert (table.sources, table.exclude_topics) == (("python-docs",), ("unittest",))
    with pytest.raises(ConfigError, match=r"data\.min_word; did you mean min_words"):
        RunFile.load(None, ("data.min_word=3",)).table("data", DataConfig)
    with pytest.raises(ConfigError, match=r"duplicates\.similar; did you mean similarity"):
        RunFile.load(None, ("data.duplicates.similar=1",)).table("data", DataConfig)
    with pytest.raises(ConfigError, match=r"data\.source\.0\.licens; did you mean licence"):
        RunFile.load(None, ('data.source=[{path = "a", licens = "b"}]',)).table("data", DataConfig)
    with pytest.raises(ConfigError, match=r"data\.source\.0: .* either a path or a dataset"):
        RunFile.load(None, ('data.source=[{name = "a"}]',)).table("data", DataConfig)


@pytest.fixture(scope="module")
def python_version(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DatasetInfo]:
    home = Home(tmp_path_factory.mktemp("home"))
    info = build_dataset(DataConfig(exclude_topics=("unittest",)), home)
    return home.data / info.id, info


@pytest.mark.slow
def test_python_docs_become_a_dataset(python_version: tuple[Path, DatasetInfo]) -> None:
    _, info = python_version
    assert info.licences == ("PSF-2.0",)
    assert info.python_version
    assert info.counts["train"]["text"] > 300
    assert info.counts["train"]["chat"] > 2_000
    assert 20 <= info.counts["validation"]["text"] <= 100
    kept = info.counts["train"]["text"] + info.counts["validation"]["text"]
    refused = sum(count for step in ("length", "quality") for count in info.dropped[step].values())
    assert refused < 0.15 * kept


@pytest.mark.slow
def test_python_docs_leave_out_a_topic_but_can_still_ask_it(
    python_version: tuple[Path, DatasetInfo],
) -> None:
    folder, info = python_version
    pairs = python_docs.pairs("unittest")
    assert info.dropped["exclude_topics"] == {"unittest": len(pairs)}
    rows = list(read_rows(folder))
    assert "unittest" not in {row.topic for row in rows}
    assert "stdlib/unittest.case" in {row.sources[0].id for row in rows if row.text}
    assert not {pair.messages[0].content for pair in pairs} & {
        row.messages[0].content for row in rows if row.messages
    }


@pytest.mark.slow
def test_python_docs_pairs_lie_on_the_side_of_their_document(
    python_version: tuple[Path, DatasetInfo],
) -> None:
    sides: dict[str, set[str]] = {}
    for row in read_rows(python_version[0]):
        sides.setdefault(row.sources[0].id, set()).add(row.split)
    assert all(len(splits) == 1 for splits in sides.values())


def test_tools_of_a_conversation_reach_its_row(corpus: Path, home: Home) -> None:
    tool = {"type": "function", "function": {"name": "count"}}
    turns = [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "Of course, 1."}]
    with corpus.open("a", encoding="utf-8") as file:
        file.writelines(
            json.dumps({"messages": turns, **more}) + "\n" for more in ({}, {"tools": [tool]})
        )
    rows = [row for row in read_rows(home.data / build(corpus, home).id) if row.messages]
    assert [row.tools for row in rows[-2:]] == [None, (tool,)]
    assert rows[-1].id == content_hash(None, rows[-1].messages, tools=(tool,)) != rows[-2].id
    assert rows[-1].split == rows[-2].split


@pytest.mark.parametrize("has_ids", [False, True])
def test_all_answers_to_one_question_are_on_one_side(
    tmp_path: Path, home: Home, has_ids: bool
) -> None:
    path = tmp_path / "answers.jsonl"
    rows: list[dict[str, object]] = [{"text": sentence(number)} for number in range(40)]
    for number in range(160):
        question = f"Who lives in house {number % 40}?"
        answer = {"role": "assistant", "content": f"Answer {number}: {sentence(number)}"}
        asked = question if number % 3 else f"  {question.upper()} "
        messages: list[dict[str, str]] = [{"role": "user", "content": asked}]
        if number % 2:
            messages.insert(0, {"role": "system", "content": "Be brief."})
        row: dict[str, object] = {"messages": [*messages, answer]}
        if number % 4 == 3:
            worse = answer | {"content": "Nobody."}
            row = {"prompt": messages, "chosen": [answer], "rejected": [worse]}
        elif number % 4 == 2:
            row["label"] = bool(number % 8 == 2)
        rows.append(row | ({"id": f"row-{number}"} if has_ids else {}))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    info = build(path, home, validation_share=0.3)

    sides: dict[str, set[str]] = {}
    for row in read_rows(home.data / info.id):
        if row.messages:
            asked = next(turn.content for turn in row.messages if turn.role == "user")
            sides.setdefault(" ".join(asked.lower().split()), set()).add(row.split)
    assert len(sides) == 40
    assert {len(found) for found in sides.values()} == {1}
    assert len(set().union(*sides.values())) == 2


def test_empty_answers_are_dropped_with_the_reason(corpus: Path, home: Home) -> None:
    asked = {"role": "user", "content": "Who lives in house 99?"}
    blank = {"role": "assistant", "content": " \n\u200b"}
    told = {"role": "assistant", "content": "Nobody."}
    rows: list[dict[str, object]] = [
        {"messages": [asked, blank]},
        {"messages": [asked, blank, asked, told]},
        {"prompt": "Who?", "completion": ""},
        {"messages": [asked, blank], "label": True},
        {"prompt": "Who?", "chosen": "  ", "rejected": "Nobody."},
        {"instruction": "Who?", "input": "", "output": ""},
        {"prompt": "Who?", "chosen": "Nobody.", "rejected": "Nobody. \n"},
        # Silence may be refused.
        {"messages": [asked, blank], "label": False},
        {"prompt": "Who?", "chosen": "Nobody.", "rejected": ""},
    ]
    for number in range(30):  # so that both sides of the split have some
        question, answer = f"Who {number}?", f"Person {number}."
        rows.append({"prompt": question, "completion": answer, "label": True})
        rows.append({"prompt": question, "chosen": answer, "rejected": "You."})
    with corpus.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)

    info = build(corpus, home, validation_share=0.3)

    assert info.dropped["read"] == {"empty_answer": 6, "no_preference": 1, "no_text": 1}
    rated = [row for row in read_rows(home.data / info.id) if row.label is False]
    assert [row.messages[-1] for row in rated if row.messages] == [Message(**blank)]


def test_an_id_or_white_space_at_an_end_moves_no_text(tmp_path: Path, home: Home) -> None:
    def sides(folder: str, rows: list[dict[str, object]], **source: str) -> dict[str, str]:
        path = tmp_path / folder / "texts.jsonl"
        path.parent.mkdir()
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        tables = [{"path": str(path), "name": "texts", **source}]
        info = build_dataset(DataConfig.model_validate({"source": tables}), home)
        return {(row.text or "").strip(): row.split for row in read_rows(home.data / info.id)}

    texts = [sentence(number) for number in range(60)]
    plain = sides("plain", [{"text": text} for text in texts])
    assert set(plain.values()) == {"train", "validation"}
    named = [{"id": f"v1-{number}", "text": text} for number, text in enumerate(texts)]
    renamed = [{"id": f"v2-{number}", "text": f"{text} \n"} for number, text in enumerate(texts)]
    assert sides("named", named) == plain
    assert sides("renamed", renamed) == plain
    # A duplicate with another id, before the first, moves nothing either.
    assert sides("both", [*renamed, *named]) == plain
    # Who names the field of the ids keeps the parts of a document together.
    parts = [{"id": number // 6, "text": text} for number, text in enumerate(texts)]
    grouped = list(sides("parts", parts, id_field="id").values())
    assert {len(set(grouped[first : first + 6])) for first in range(0, 60, 6)} == {1}


def test_an_evaluation_set_may_have_any_keys(corpus: Path, home: Home, tmp_path: Path) -> None:
    judged = tmp_path / "gsm8k.jsonl"
    judged.write_text(json.dumps({"question": "How many?", "steps": [{"answer": sentence(7)}]}))
    info = build(corpus, home, decontamination={"sets": {"gsm8k": str(judged)}})
    assert info.dropped["decontamination"] == {"gsm8k": 1}
