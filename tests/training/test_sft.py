import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, Trainer

from everloop.errors import ArtifactError, DataError
from everloop.manifest import DatasetRef
from everloop.records import DatasetRow, Message, content_hash
from training.checkpoint import Checkpoint, read_checkpoint
from training.config import SftConfig
from training.curves import read_curves
from training.pretrained import load_network
from training.sft import SftRunTrainer
from training.tune import fine_tune


def _rows(split: str, count: int) -> list[DatasetRow]:
    rows = []
    for number in range(count):
        messages = (
            Message(role="user", content=f"What does item {number} return?"),
            Message(role="assistant", content="A string. It raises ValueError otherwise."),
        )
        rows.append(
            DatasetRow(id=content_hash(None, messages), split=split, sources=(), messages=messages)
        )
    return rows


TEXT = DatasetRow(id="0" * 64, split="train", sources=(), text="The lazy dog sorts the items.")


def _config(**values: object) -> SftConfig:
    values = {
        "max_steps": 10,
        "device_batch_size": 4,
        "grad_accum_steps": 1,
        "eval_every": 5,
        "log_every": 5,
        "warmup_steps": 2,
        "num_threads": 1,
        **values,
    }
    return SftConfig.model_validate(values)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Checkpoint:
    return fine_tune(
        tiny_checkpoint,
        [*_rows("train", 15), TEXT],
        _rows("validation", 4),
        tmp_path_factory.mktemp("runs") / "sft",
        _config(),
        datasets=[DatasetRef(id="ds-1", merkle_root="1" * 64, rows=16, use="sft")],
        parent_tag="everloop:v1",
    )


def test_fine_tune_lowers_the_loss_of_answers(tuned: Checkpoint) -> None:
    history = (tuned.path.parent / "history.jsonl").read_text(encoding="utf-8")
    first = float(history.splitlines()[0].split('"val_loss": ')[1].rstrip("}"))
    assert tuned.metrics["val_loss"] < first - 1
    assert tuned.metrics["steps"] == 10
    assert tuned.metrics["rows"] == 16
    assert tuned.metrics["dropped_rows"] == 0


@pytest.mark.slow
def test_fine_tune_tunes_a_recurrent_network(
    tiny_recurrent_checkpoint: Path, tmp_path: Path
) -> None:
    before = fine_tune(
        tiny_recurrent_checkpoint, _rows("train", 15), _rows("validation", 4), tmp_path / "a",
        _config(max_steps=1),
    )  # fmt: skip
    after = fine_tune(
        tiny_recurrent_checkpoint, _rows("train", 15), _rows("validation", 4), tmp_path / "b",
        _config(),
    )  # fmt: skip
    assert after.metrics["val_loss"] < 0.9 * before.metrics["val_loss"]


def test_fine_tune_adds_to_the_lineage(tuned: Checkpoint, tiny_checkpoint: Path) -> None:
    lineage = read_checkpoint(tuned.path).lineage
    assert [dataset.id for dataset in lineage.datasets] == ["ds-0", "ds-1"]
    assert lineage.parent == "everloop:v1"
    assert lineage.config["parent_sha256"] == read_checkpoint(tiny_checkpoint).sha256
    assert lineage.checkpoint_sha256 != lineage.config["parent_sha256"]


def test_fine_tune_keeps_the_tokenizer_byte_by_byte(
    tuned: Checkpoint, tiny_checkpoint: Path
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tuned.path / name).read_bytes() == (tiny_checkpoint / name).read_bytes()


def test_fine_tune_by_epochs_counts_steps(tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = _config(max_steps=None, epochs=1.5)
    rows, validation = _rows("train", 8), _rows("validation", 2)
    checkpoint = fine_tune(tiny_checkpoint, rows, validation, tmp_path / "run", config)
    assert checkpoint.metrics["steps"] == 3  # 1.5 * 8 rows / 4 per step


def test_fine_tune_trains_on_answers_and_whole_texts(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[dict[str, torch.Tensor]] = []

    def spy(self, model, inputs, *args, **kwargs):
        if model.training:
            batches.append({name: value.clone() for name, value in inputs.items()})
        return Trainer.compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(SftRunTrainer, "compute_loss", spy)
    rows, validation = [*_rows("train", 3), TEXT], _rows("validation", 1)
    fine_tune(tiny_checkpoint, rows, validation, tmp_path / "run", _config(max_steps=1))
    (batch,) = batches
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint, local_files_only=True)
    rows = batch["labels"][0].tensor_split(batch["cu_seq_lens_q"][1:-1].tolist())
    learnt = sorted(tokenizer.decode(labels[labels != -100]) for labels in rows)
    answer = "A string. It raises ValueError otherwise.<|im_end|>"
    # Nothing stands before the first token of a text, so that it is read and not learnt.
    assert learnt == [" lazy dog sorts the items.<|endoftext|>", answer, answer, answer]
    assert len(rows) == 4
    assert batch["input_ids"].shape == (1, int(batch["cu_seq_lens_q"][-1]))


def test_fine_tune_resumes_nothing_when_finished(tuned: Checkpoint, tiny_checkpoint: Path) -> None:
    rows, validation = [*_rows("train", 15), TEXT], _rows("validation", 4)
    assert fine_tune(tiny_checkpoint, rows, validation, tuned.path.parent, _config()) == tuned


@pytest.mark.slow
def test_fine_tune_resumes_to_the_same_weights(
    tuned: Checkpoint, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self, *args, **kwargs):
        if self.state.global_step == 7:
            raise KeyboardInterrupt
        return Trainer.training_step(self, *args, **kwargs)

    rows, validation = [*_rows("train", 15), TEXT], _rows("validation", 4)
    with monkeypatch.context() as patch:
        patch.setattr(SftRunTrainer, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(tiny_checkpoint, rows, validation, tmp_path / "run", _config())
    resumed = fine_tune(tiny_checkpoint, rows, validation, tmp_path / "run", _config())
    assert resumed.sha256 == tuned.sha256


def test_fine_tune_refuses_a_changed_parent(tiny_checkpoint: Path, tmp_path: Path) -> None:
    parent = shutil.copytree(tiny_checkpoint, tmp_path / "parent")
    with (parent / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(ArtifactError, match="was changed after the checkpoint"):
        fine_tune(parent, _rows("train", 1), _rows("validation", 1), tmp_path / "run", _config())


def test_fine_tune_refuses_rows_of_the_holdout(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="belongs to the holdout split"):
        fine_tune(
            tiny_checkpoint, _rows("holdout", 2), _rows("validation", 1), tmp_path / "r", _config()
        )


@pytest.mark.parametrize("lora_rank", [None, 4])
def test_the_start_is_kept_when_no_step_is_better(
    tuned: Checkpoint, tmp_path: Path, lora_rank: int | None
) -> None:
    other = (Message(role="user", content="?"), Message(role="assistant", content="7 9 0 3" * 8))
    rows = [DatasetRow(id=content_hash(None, other), split="train", sources=(), messages=other)]
    rates = {"adamw_learning_rate": 0.7} | ({} if lora_rank else {"muon_learning_rate": 0.7})
    checkpoint = fine_tune(
        tuned.path, rows * 8, _rows("validation", 4), tmp_path / "run",
        _config(max_steps=4, eval_every=2, lora_rank=lora_rank, warmup_steps=0, **rates),
    )  # fmt: skip

    losses = [point.val_loss for point in read_curves(tmp_path / "run" / "history.jsonl")]
    start, *later = [loss for loss in losses if loss is not None]
    assert min(later) > start
    assert (checkpoint.metrics["best_step"], checkpoint.metrics["val_loss"]) == (0, start)
    kept, given = load_network(checkpoint.path), load_network(tuned.path)
    same = zip(kept.parameters(), given.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in same)
