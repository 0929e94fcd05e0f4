import subprocess
import sys
from pathlib import Path

import pytest
import torch

from everloop.errors import ConfigError
from training.checkpoint import read_checkpoint
from training.config import PretrainConfig
from training.distributed import device_of, mean_over_processes


def test_fsdp_on_cpus_is_refused() -> None:
    with pytest.raises(ConfigError, match="would silently train by DDP instead"):
        device_of(PretrainConfig(device="cpu", parallel="fsdp"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="torch sees no GPU here"):
        device_of(PretrainConfig(device="cuda"))


def test_a_process_alone_is_its_own_mean() -> None:
    assert mean_over_processes(2.5) == 2.5


def _run_two(module: str, *arguments: object) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launcher, "-m", module, *map(str, arguments)]
    assert subprocess.run(command, check=False, timeout=120).returncode == 0


@pytest.mark.slow
def test_two_processes_agree_on_their_budget(tmp_path: Path) -> None:
    # Else one leaves the training a step before the other, which waits for it for ever.
    _run_two("tests.training.budget_process", tmp_path)
    first, second = ((tmp_path / f"rank-{rank}").read_text() for rank in (0, 1))
    assert first == second
    elapsed, reserve = map(float, first.split())
    assert elapsed > 0
    assert reserve == 4.0  # the mean of both, and a second for the save


@pytest.mark.slow
def test_two_processes_train_one_model(
    tiny_shards: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    _run_two("tests.training.train_process", tiny_shards, tiny_tokenizer, folder)
    checkpoint = read_checkpoint(tmp_path / "run" / "checkpoint")
    assert checkpoint.metrics["steps"] == 24
    # Two processes take two windows each, twice per step, of 32 tokens.
    assert checkpoint.metrics["tokens"] == 24 * 2 * 2 * 2 * 32
    assert checkpoint.metrics["val_loss"] < 3.0
