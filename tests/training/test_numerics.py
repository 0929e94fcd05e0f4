import json
from pathlib import Path

import pytest

from everloop.errors import ArtifactError
from everloop.machine_record import MachineRecord, TorchSpeed, measured_record
from tests.training.train_process import CONFIG
from training.checkpoint import read_checkpoint
from training.config import ModelConfig
from training.numerics import Numerics, choose_numerics, settle_numerics
from training.pretrain import pretrain
from training.run_folder import RunFolder
from training.torch_speed import measure_torch

MODEL = ModelConfig(size="1m", context_length=32)


def _plant(monkeypatch: pytest.MonkeyPatch, folder: Path, bf16: float) -> MachineRecord:
    """A record of this machine by which bf16 is so fast and fp32 100 GFLOP/s."""
    monkeypatch.setenv("EVERLOOP_CACHE_FOLDER", str(folder))
    measured = measure_torch()
    speed = TorchSpeed(version=measured.version, threads=2, fp32=100.0, bf16=bf16)
    return measured_record("torch", lambda: speed, again=True)


def test_torch_is_measured_in_every_format() -> None:
    speed = measure_torch()
    assert speed.fp32 > 0 and speed.bf16 > 0 and speed.threads >= 1


@pytest.mark.parametrize(("bf16", "chosen"), [(480.0, "bf16"), (150.0, "fp32"), (0.9, "fp32")])
def test_bf16_is_chosen_only_where_it_is_fast(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bf16: float, chosen: str
) -> None:
    _plant(monkeypatch, tmp_path, bf16)
    assert choose_numerics("cpu") == Numerics(products=chosen, muon=chosen)


@pytest.mark.parametrize(("first", "then"), [(480.0, 0.9), (0.9, 480.0)])
def test_a_run_keeps_the_formats_that_it_began_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, first: float, then: float
) -> None:
    run = RunFolder(tmp_path)
    _plant(monkeypatch, tmp_path, first)
    begun = settle_numerics(run, "cpu")
    _plant(monkeypatch, tmp_path, then)
    assert choose_numerics("cpu") != begun
    assert settle_numerics(run, "cpu") == begun


def test_formats_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.numerics.write_text('{"products": "fp8"}', encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"numerics\.json does not say in which formats"):
        settle_numerics(run, "cpu")


@pytest.mark.slow
def test_a_stored_format_decides_the_weights(
    tiny_shards: Path, tiny_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG.model_copy(update={"max_steps": 3})
    _plant(monkeypatch, tmp_path, 0.9)
    chosen = pretrain(tiny_shards, tiny_tokenizer, tmp_path / "chosen", MODEL, config)
    _plant(monkeypatch, tmp_path, 480.0)
    stored = tmp_path / "stored"
    stored.mkdir()
    fp32 = {"products": "fp32", "muon": "fp32"}
    (stored / "numerics.json").write_text(json.dumps(fp32), encoding="utf-8")
    resumed = pretrain(tiny_shards, tiny_tokenizer, stored, MODEL, config)
    assert resumed.sha256 == chosen.sha256
    assert read_checkpoint(stored / "checkpoint").record.setting("muon") == "fp32"
    other = pretrain(tiny_shards, tiny_tokenizer, tmp_path / "bf16", MODEL, config)
    assert other.record.setting("products") == "bf16"
    assert other.sha256 != chosen.sha256
