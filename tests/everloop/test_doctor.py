import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from everloop.cli import app
from everloop.machine_record import TorchSpeed, load_record, measured_record
from training.torch_speed import measure_torch


@pytest.fixture
def slow_bf16(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A record by which this machine imitates bf16."""
    monkeypatch.setenv("EVERLOOP_CACHE_FOLDER", str(tmp_path))
    version = measure_torch().version
    planted = TorchSpeed(version=version, threads=2, fp32=95.0, bf16=0.9)
    measured_record("torch", lambda: planted)


@pytest.mark.usefixtures("slow_bf16")
def test_doctor_measures_what_is_missing_and_says_why() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["record"]["torch"]["bf16"] == 0.9
    assert len(found["record"]["onnxruntime"]["products"]) == 4
    assert load_record().onnxruntime is not None
    choices = {choice["what"]: choice for choice in found["choices"]}
    assert choices["training: products"]["chosen"] == "fp32"
    assert "bf16 is 0.01 times as fast as fp32" in choices["training: Muon"]["why"]
    assert int(choices["engine: threads"]["chosen"]) >= 1


@pytest.mark.usefixtures("slow_bf16")
def test_doctor_measures_again_on_request() -> None:
    result = CliRunner().invoke(app, ["doctor", "--again"])
    assert result.exit_code == 0
    record = load_record()
    assert record.torch is not None and record.torch.fp32 != 95.0
    for text in (record.processor, str(record.path), "ONNX Runtime, 32 rows", "training: Muon"):
        assert text in result.stdout
