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


@pytest.mark.slow
def test_two_processes_train_one_model(
    tiny_shards: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    module = ["-m", "tests.training.train_process"]
    folders = [str(path) for path in (tiny_shards, tiny_tokenizer, tmp_path / "run")]
    result = subprocess.run([*command, "2", *module, *folders], check=False)
    assert result.returncode == 0
    checkpoint = read_checkpoint(tmp_path / "run" / "checkpoint")
    assert checkpoint.metrics["steps"] == 24
    # Two processes take two windows each, twice per step, of 32 tokens.
    assert checkpoint.metrics["tokens"] == 24 * 2 * 2 * 2 * 32
    assert checkpoint.metrics["val_loss"] < 3.0
