import subprocess
import sys

import pytest

import training.export
from everloop.errors import ConfigError
from everloop.settings import RunFile
from training.export.config import ExportConfig


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("export.precision=int2", "export.precision: .* got 'int2'"),
        ("export.block_size=128", "export.block_size: .* got 128"),
        ("export.cache=fp16", "export.cache: .* got 'fp16'"),
        ("export.max_model_len=16", "export.max_model_len: .* got 16"),
        ("export.name=Ever Loop", "export.name: .* got 'Ever Loop'"),
        ("export.presicion=fp32", "unknown key export.presicion; did you mean precision?"),
    ],
)
def test_export_config_refuses_wrong_values(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunFile.load(None, (override,)).table("export", ExportConfig)


def test_export_config_loads_without_torch() -> None:
    code = "import sys, training.export.config; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_export_gives_its_public_names() -> None:
    assert sorted(training.export.__all__) == [
        "ExportConfig", "export_checkpoint", "window_losses",
    ]  # fmt: skip
    assert all(getattr(training.export, name) for name in training.export.__all__)
    with pytest.raises(AttributeError, match="no attribute export_all"):
        training.export.export_all  # noqa: B018
