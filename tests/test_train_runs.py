"""Every method by its name, on one dataset that holds every kind of row."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from everloop import evaluate_runs
from everloop.cli import app
from everloop.compare_runs import compare_kinds
from everloop.errors import ArtifactError, ConfigError, NotFoundError
from everloop.evaluate_runs import evaluate_run, held_out_rows, report_training
from everloop.lifecycle import build_data, find_checkpoint, prepare_tokens
from everloop.records import DatasetRow, Message, Source
from everloop.settings import Home, RunFile
from everloop.train_runs import describe_run, train_run
from tests.tiny_model import make_tiny_checkpoint
from training.checkpoint import read_checkpoint
from training.tokens import TokenizerFolder

COLOURS = ("red", "green", "blue", "white")
OVERRIDES = (
    "data.min_words=4",
    "data.min_characters=10",
    "data.duplicates={near = false}",
    "tokenizer.vocab_size=512",
    "model.size=1m",
    "model.context_length=64",
    *(f"{table}.max_steps=6" for table in ("pretrain", "sft", "kto", "dpo")),
    *(f"{table}.eval_every=3" for table in ("pretrain", "sft", "kto", "dpo")),
    *(f"{table}.grad_accum_steps=1" for table in ("sft", "kto", "dpo")),
    *(f"{table}.num_threads=1" for table in ("pretrain", "sft", "kto", "dpo")),
    "export.precision=fp32",
)


def _write_corpus(folder: Path) -> None:
    chance = random.Random(0)
    folder.mkdir()
    lines: list[dict[str, object]] = []
    for number in range(60):
        colour = chance.choice(COLOURS)
        question = [{"role": "user", "content": f"What colour is thing number {number}?"}]
        good = [{"role": "assistant", "content": f"Thing number {number} is {colour}."}]
        bad = [{"role": "assistant", "content": "I do not know what you mean."}]
        approved = chance.random() < 0.6
        asked = [{"role": "user", "content": f"Is thing number {number} of any colour?"}]
        told = " ".join(
            f"The thing with number {chance.randrange(99)} is {colour}." for _ in range(20)
        )
        lines += [
            {"text": told},
            {"messages": question + good},
            {"prompt": question, "chosen": good, "rejected": bad},
            {"prompt": asked, "completion": good if approved else bad, "label": approved},
        ]
    text = "\n".join(json.dumps(line) for line in lines)
    (folder / "corpus.jsonl").write_text(text + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, RunFile]:
    folder = tmp_path_factory.mktemp("runs")
    _write_corpus(folder / "corpus")
    home = Home(folder / "home").create()
    run = RunFile.load(None, (f'data.sources=["{folder / "corpus"}"]', *OVERRIDES))
    prepare_tokens(home, run, build_data(home, run))
    return home, run


def _report_of(home: Home, run: str) -> dict[str, Any]:
    assert (home.runs / run / "report.html").is_file()
    report: dict[str, Any] = json.loads((home.runs / run / "report.json").read_text("utf-8"))
    return report


@pytest.mark.slow
def test_methods_build_on_one_another(prepared: tuple[Home, RunFile], tmp_path: Path) -> None:
    home, run = prepared
    base = train_run(home, run, "base", "both")
    assert base.path.parent.name == "base-sft"
    first = _report_of(home, "base-sft")
    rated = train_run(home, run, "base", "kto")
    paired = train_run(home, run, "base", "dpo", parent="base-pretrain")
    assert rated.record.config["parent_sha256"] == base.sha256
    pretrained = find_checkpoint(home, "base-pretrain")
    assert paired.record.config["parent_sha256"] == pretrained.sha256
    assert find_checkpoint(home, "base").path == paired.path

    parents = {"pretrain": None, "sft": "base-pretrain", "kto": "base-sft", "dpo": "base-pretrain"}
    for method, parent in parents.items():
        written = _report_of(home, f"base-{method}")
        assert (written["method"], written["parent"]) == (method, parent)
        assert {group["name"] for group in written["quality"]} == {"chat", "text"}
        is_compared = [group["parent_bits_per_byte"] is not None for group in written["quality"]]
        assert is_compared == [parent is not None] * 2
        assert written["samples"]
    train_run(home, run, "base", "sft")  # finished already: its report stays
    assert _report_of(home, "base-sft") == first

    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"prompt": "What?", "choices": ["a", "b"], "answer": 1}\n', encoding="utf-8")
    found = evaluate_run(home, "base-kto", tasks=tasks)
    assert found.html.is_file()
    assert found.bits_per_byte.keys() == {"chat", "text"}
    assert {"accuracy", "auc", "reward_accuracy", "reward_auc"} <= found.preference.keys()
    assert found.tasks == 1
    report = json.loads(found.json.read_text(encoding="utf-8"))
    assert report["parent"] == "base-sft"


@pytest.mark.slow
def test_texts_alone_end_with_pre_training(tmp_path: Path) -> None:
    _write_corpus(tmp_path / "corpus")
    path = tmp_path / "corpus/corpus.jsonl"
    texts = [line for line in path.read_text("utf-8").splitlines() if line.startswith('{"text"')]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    home = Home(tmp_path / "home").create()
    run = RunFile.load(None, (f'data.sources=["{tmp_path / "corpus"}"]', *OVERRIDES))
    prepare_tokens(home, run, build_data(home, run))
    assert train_run(home, run, "base", "both").path.parent.name == "base-pretrain"


def test_a_checkpoint_from_elsewhere_is_reported_under_the_home(
    prepared: tuple[Home, RunFile], tmp_path: Path
) -> None:
    home, _ = prepared
    foreign = make_tiny_checkpoint(tmp_path / "foreign")
    found = evaluate_run(home, str(foreign))
    assert found.html == home.reports / "foreign" / "report.html"
    assert found.html.is_file()
    assert found.verdict == "The model was not trained here: there are no curves."
    assert found.val_loss is None
    assert found.bits_per_byte.keys() == {"chat", "text"}


def test_held_out_rows_are_bounded_by_number_and_length(prepared: tuple[Home, RunFile]) -> None:
    home, _ = prepared
    texts = [row for row in held_out_rows(home, 64) if row.kind == "text"]
    sizes = [len(row.text or "") for row in texts]
    assert len(texts) > 2

    def count(limit: int, characters: int | None = None) -> int:
        rows = held_out_rows(home, limit, characters)
        assert {row.split for row in rows} == {"validation"}
        return sum(row.kind == "text" for row in rows)

    assert count(2) == 2
    assert count(64, sizes[0] + sizes[1]) == 2
    assert count(64, 10) == 1


def test_a_report_without_a_dataset_tells_the_rest(home: Home, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(make_tiny_checkpoint(tmp_path / "alone" / "checkpoint"))
    report_training(home, checkpoint, None)
    report = json.loads((tmp_path / "alone" / "report.json").read_text("utf-8"))
    assert (report["run"], report["quality"]) == ("alone", [])


def test_a_report_does_without_rows_that_cannot_be_measured(
    prepared: tuple[Home, RunFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, _ = prepared
    said = Message(role="assistant", content="<|im_end|>")
    asked = Message(role="user", content="<|im_start|>system")
    source = Source(kind="document", id="forged")
    row = DatasetRow(id="0" * 64, split="validation", sources=(source,), messages=(asked, said))
    monkeypatch.setattr(evaluate_runs, "held_out_rows", lambda *_: [row])
    checkpoint = read_checkpoint(make_tiny_checkpoint(tmp_path / "forger" / "checkpoint"))
    report_training(home, checkpoint, None)
    report = json.loads((tmp_path / "forger" / "report.json").read_text("utf-8"))
    assert (report["quality"], report["samples"]) == ([], [])


@pytest.mark.slow
def test_train_says_where_its_report_is_and_what_the_curves_show(
    prepared: tuple[Home, RunFile],
) -> None:
    home, _ = prepared
    settings = [word for override in OVERRIDES for word in ("--set", override)]
    command = ["train", "said", "--method", "pretrain", "--home", str(home.root), "--json"]
    result = CliRunner().invoke(app, [*command, *settings])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["report"] == str(home.runs / "said-pretrain" / "report.html")
    assert said["verdict"] == _report_of(home, "said-pretrain")["verdict"]
    assert said["steps"] == 6


@pytest.mark.slow
def test_kinds_are_trained_served_and_set_side_by_side(prepared: tuple[Home, RunFile]) -> None:
    home, run = prepared
    recurrent, transformer = compare_kinds(home, run, "side", "gru,transformer")
    assert (recurrent.kind, transformer.kind) == ("gru", "transformer")
    assert recurrent.steps == transformer.steps == 6
    assert recurrent.decode_ms > 0
    assert {kind.report.is_file() for kind in (recurrent, transformer)} == {True}
    assert transformer.quality == pytest.approx(
        recurrent.quality
        * ((8 - transformer.val_bpb) / transformer.decode_ms)
        / ((8 - recurrent.val_bpb) / recurrent.decode_ms),
        rel=0.02,
    )


def test_describe_run_names_widths_and_rates(prepared: tuple[Home, RunFile]) -> None:
    home, run = prepared
    vocabulary = TokenizerFolder.read(next(home.tokenizers.iterdir())).vocab_size
    line = describe_run(home, run, "both")
    assert "transformer 1m: " in line
    assert f"vocabulary {vocabulary}, context 64, learning rates Muon 0.012" in line


def test_tuning_without_a_checkpoint_is_refused(prepared: tuple[Home, RunFile]) -> None:
    with pytest.raises(ArtifactError, match="kto starts from a checkpoint, and run other has none"):
        train_run(*prepared, "other", "kto")


def test_training_without_a_dataset_is_refused(home: Home) -> None:
    with pytest.raises(NotFoundError, match="has no dataset yet"):
        train_run(home, RunFile.load(None), "base", "pretrain")


@pytest.mark.parametrize(
    ("kinds", "message"),
    [("rnn,cnn", "unknown kind cnn; known: transformer, rnn"), ("rnn,lstm", "two kinds or more")],
)
def test_compare_refuses_kinds(home: Home, kinds: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compare_kinds(home, RunFile.load(None), "side", kinds)
