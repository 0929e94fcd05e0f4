import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress
from transformers import AutoModelForCausalLM, TrainerCallback

from everloop.errors import DataError, EverloopError
from everloop.manifest import DatasetRef
from tests.training.watching import watching
from training.checkpoint import Checkpoint, read_checkpoint
from training.config import ModelConfig, PretrainConfig
from training.pretrain import pretrain
from training.tokenizer import TokenizerConfig, train_tokenizer

MODEL = ModelConfig(size="1m", context_length=32)


def _config(**values: object) -> PretrainConfig:
    values = {
        "max_steps": 12,
        "device_batch_size": 4,
        "eval_every": 4,
        "log_every": 2,
        "eval_windows": 8,
        "warmup_steps": 2,
        "num_threads": 1,
        **values,
    }
    return PretrainConfig.model_validate(values)


def _history(run: Path) -> list[dict[str, float]]:
    lines = (run / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


class InterruptAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


class WorsenFrom(TrainerCallback):
    """Spoils the weights after a step, so that later validations are worse."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, model, **kwargs):
        if state.global_step > self.step:
            with torch.no_grad():
                model.model.norm.weight.fill_(-5)


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path, tiny_tokenizer: Path
) -> tuple[Path, Checkpoint]:
    """A run of 12 steps that nothing interrupted."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    refs = [DatasetRef(id="ds-0", merkle_root="0" * 64, rows=4, use="pretrain")]
    return run, pretrain(tiny_shards, tiny_tokenizer, run, MODEL, _config(), datasets=refs)


def test_pretrain_lowers_the_loss(trained: tuple[Path, Checkpoint]) -> None:
    run, checkpoint = trained
    history = _history(run)
    validations = [line["val_loss"] for line in history if "val_loss" in line]
    losses = [line["train_loss"] for line in history if "train_loss" in line]
    assert [line["step"] for line in history if "val_loss" in line] == [0, 4, 8, 12]
    assert validations[-1] < validations[0] - 1
    assert losses[-1] < losses[0] - 1
    assert checkpoint.metrics["val_loss"] == validations[-1]
    assert checkpoint.metrics["steps"] == 12
    assert checkpoint.metrics["tokens"] == history[-1]["tokens"] == 12 * 4 * 32


def test_pretrain_writes_an_ordinary_checkpoint(
    trained: tuple[Path, Checkpoint], tiny_tokenizer: Path
) -> None:
    run, checkpoint = trained
    assert checkpoint == read_checkpoint(run / "checkpoint")
    assert {path.name for path in checkpoint.path.iterdir()} == {
        "config.json", "model.safetensors", "generation_config.json", "tokenizer.json",
        "tokenizer_config.json", "chat_template.jinja", "everloop.json",
    }  # fmt: skip
    assert checkpoint.lineage.datasets[0].id == "ds-0"
    assert checkpoint.record.config["model.size"] == "1m"
    model = AutoModelForCausalLM.from_pretrained(checkpoint.path, local_files_only=True)
    assert model.generation_config.eos_token_id == [0, 2]
    assert not (run / "trainer").exists()


def test_pretrain_returns_a_finished_run_untouched(
    trained: tuple[Path, Checkpoint], tiny_shards: Path, tiny_tokenizer: Path
) -> None:
    run, checkpoint = trained
    before = (checkpoint.path / "model.safetensors").stat().st_mtime_ns
    again = pretrain(tiny_shards, tiny_tokenizer, run, MODEL, _config())
    assert again == checkpoint
    assert (checkpoint.path / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_pretrain_resumes_to_the_same_weights(
    trained: tuple[Path, Checkpoint], tiny_shards: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), watching(InterruptAt(step=6)):
        pretrain(tiny_shards, tiny_tokenizer, run, MODEL, _config())
    assert not (run / "checkpoint").exists()
    resumed = pretrain(tiny_shards, tiny_tokenizer, run, MODEL, _config())
    whole_run, whole = trained
    assert resumed.sha256 == whole.sha256
    kept = [(line["step"], line.get("train_loss"), line.get("val_loss")) for line in _history(run)]
    assert kept == [
        (line["step"], line.get("train_loss"), line.get("val_loss")) for line in _history(whole_run)
    ]


def test_pretrain_stops_early_and_keeps_the_best(
    tiny_shards: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    config = _config(max_steps=40, eval_every=2, patience=2)
    with watching(WorsenFrom(step=4)):
        checkpoint = pretrain(tiny_shards, tiny_tokenizer, tmp_path / "run", MODEL, config)
    assert checkpoint.metrics["best_step"] == 4
    assert checkpoint.metrics["steps"] == 8  # two worse validations
    losses = {
        line["step"]: line["val_loss"] for line in _history(tmp_path / "run") if "val_loss" in line
    }
    assert checkpoint.metrics["val_loss"] == losses[4] < losses[8]
    model = AutoModelForCausalLM.from_pretrained(checkpoint.path, local_files_only=True)
    assert model.model.norm.weight.min() > 0  # the weights of step 4, before they were spoilt


def test_pretrain_by_the_clock_stops_before_the_last_step(
    tiny_shards: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    config = _config(max_steps=None, minutes=0.05, eval_every=10_000)
    checkpoint = pretrain(tiny_shards, tiny_tokenizer, tmp_path / "run", MODEL, config)
    assert 1 <= checkpoint.metrics["steps"] < 10_000
    assert checkpoint.metrics["best_step"] == checkpoint.metrics["steps"]


class PoisonAt(TrainerCallback):
    """Makes the weights useless after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, model, **kwargs):
        if state.global_step == self.step:
            with torch.no_grad():
                model.model.norm.weight.fill_(float("nan"))


def test_pretrain_fails_when_the_loss_is_no_number_before_a_state_is_saved(
    tiny_shards: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    with (
        pytest.raises(EverloopError, match=r"the loss became nan at step 2\. Lower"),
        watching(PoisonAt(step=1)),
    ):
        pretrain(tiny_shards, tiny_tokenizer, tmp_path / "run", MODEL, _config())
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_pretrain_keeps_the_last_good_state_when_the_loss_is_no_number(
    tiny_shards: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    with watching(PoisonAt(step=9)):
        checkpoint = pretrain(tiny_shards, tiny_tokenizer, tmp_path / "run", MODEL, _config())
    assert checkpoint.metrics["diverged_step"] == 10
    assert checkpoint.metrics["best_step"] == 8
    model = AutoModelForCausalLM.from_pretrained(checkpoint.path, local_files_only=True)
    assert all(weight.isfinite().all() for weight in model.parameters())


def test_pretrain_shows_loss_and_ends_its_bar(
    tiny_shards: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    with Progress(disable=True) as progress:
        pretrain(
            tiny_shards,
            tiny_tokenizer,
            tmp_path / "run",
            MODEL,
            _config(max_steps=4, eval_every=2),
            progress=progress,
        )
        (task,) = progress.tasks
    assert task.finished
    assert task.description.startswith("pre-train · step 4 · ")
    assert "loss " in task.description
    assert "val " in task.description
    assert "tokens/s" in task.description


def test_pretrain_refuses_shards_of_another_tokenizer(tiny_shards: Path, tmp_path: Path) -> None:
    from everloop.records import DatasetRow

    row = DatasetRow(id="1", split="train", sources=(), text="Quite another text. " * 50)
    train_tokenizer([row], TokenizerConfig(vocab_size=512), tmp_path / "other")
    with pytest.raises(DataError, match="was made with another tokenizer"):
        pretrain(tiny_shards, tmp_path / "other", tmp_path / "run", MODEL, _config())
    assert not (tmp_path / "run").exists()


def test_pretrain_refuses_shards_shorter_than_a_window(
    tiny_shards: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    model = ModelConfig(size="1m", context_length=32_768)
    with pytest.raises(DataError, match=r"one window needs 32,769\. Add documents or lower"):
        pretrain(tiny_shards, tiny_tokenizer, tmp_path / "run", model, _config())


def test_pretrain_refuses_tokens_beyond_the_vocabulary(
    tiny_shards: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    shards = shutil.copytree(tiny_shards, tmp_path / "shards")
    tokens = np.fromfile(shards / "train.bin", dtype="<u2")
    tokens[7] = 60_000
    tokens.tofile(shards / "train.bin")
    with pytest.raises(DataError, match=r"holds token 60,000, the vocabulary ends at"):
        pretrain(shards, tiny_tokenizer, tmp_path / "run", MODEL, _config())
