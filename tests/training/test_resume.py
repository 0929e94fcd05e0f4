"""Runs that end by force: killed at any moment, or on a full disk."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import TrainerCallback

from everloop.errors import EverloopError
from tests.training.train_process import CONFIG
from tests.training.watching import watching
from training.checkpoint import read_checkpoint
from training.config import ModelConfig
from training.pretrain import pretrain
from training.run_folder import RunFolder

MODEL = ModelConfig(size="1m", context_length=32)


def _start(*arguments: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.training.train_process", *map(str, arguments)]
    return subprocess.Popen(command)


def _wait_for_step(run: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        history = run / "history.jsonl"
        lines = history.read_text(encoding="utf-8").splitlines() if history.is_file() else []
        if lines and json.loads(lines[-1])["step"] >= step:
            return
    raise AssertionError(f"the run did not reach step {step}")


@pytest.mark.slow
def test_a_run_killed_at_a_random_step_ends_in_the_same_weights(
    tiny_shards: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    whole = pretrain(tiny_shards, tiny_tokenizer, tmp_path / "whole", MODEL, CONFIG)
    killed = tmp_path / "killed"
    steps = sorted(random.SystemRandom().sample(range(1, 24), 2))
    for step in steps:
        process = _start(tiny_shards, tiny_tokenizer, killed)
        _wait_for_step(killed, step, process)
        process.kill()
        assert process.wait() == -9, steps
    assert not (killed / "checkpoint").exists()
    process = _start(tiny_shards, tiny_tokenizer, killed)
    assert process.wait() == 0
    assert read_checkpoint(killed / "checkpoint").sha256 == whole.sha256, steps


class FillDiskAt(TrainerCallback):
    """From a step on, the next saved state cannot be written."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            file = Path(args.output_dir) / "checkpoint-6" / "optimizer.pt"
            file.parent.mkdir()
            file.symlink_to("/dev/full")  # every write fails with "no space left on device"


@pytest.mark.slow
def test_a_full_disk_leaves_the_previous_state_whole(
    tiny_shards: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = CONFIG.model_copy(update={"max_steps": 7})
    with (
        pytest.raises(EverloopError, match=r"step 6 could not be saved .*checkpoint-3 is whole"),
        watching(FillDiskAt(step=5)),
    ):
        pretrain(tiny_shards, tiny_tokenizer, run, MODEL, config)
    assert RunFolder(run).last_state == run / "trainer" / "checkpoint-3"
    (run / "trainer" / "checkpoint-6" / "optimizer.pt").unlink()
    resumed = pretrain(tiny_shards, tiny_tokenizer, run, MODEL, config)
    whole = pretrain(tiny_shards, tiny_tokenizer, tmp_path / "whole", MODEL, config)
    assert resumed.sha256 == whole.sha256
