from pathlib import Path

import pytest

from everloop.errors import ConfigError
from training import reporters
from training.config import PretrainConfig


def test_reporters_refuse_a_package_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporters, "find_spec", lambda name: None)
    config = PretrainConfig(mlflow_tracking_uri="http://127.0.0.1:5000")
    with pytest.raises(ConfigError, match="needs the package mlflow, which is not installed"):
        reporters.reporters(config, tmp_path)


def test_reporters_are_none_unless_asked_for(tmp_path: Path) -> None:
    assert reporters.reporters(PretrainConfig(), tmp_path) == []


def test_tensorboard_files_lie_in_the_runs_folder(tmp_path: Path) -> None:
    (callback,) = reporters.reporters(PretrainConfig(tensorboard=True), tmp_path)
    assert callback.logging_dir == str(tmp_path / "tensorboard")
