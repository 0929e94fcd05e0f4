"""The verbs that ask the store, as a person reads them."""

from pathlib import Path

import pytest

from everloop.cli import main
from everloop.registry import Registry
from everloop.settings import Home
from tests.tiny_model import make_tiny_version


def test_models_show_prints_how_far_each_precision_lies_from_fp32(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = Registry(home).save(make_tiny_version(tmp_path / "version", precision="int8"))
    (measured,) = version.manifest.export.precisions
    assert measured.divergence is not None

    with pytest.raises(SystemExit) as end:
        main(["models", "show", version.tag, "--home", str(home.root)])

    assert end.value.code == 0
    record, table = capsys.readouterr().out.split("\n\n")
    assert "mean_kl" not in record
    heads, row = table.strip().splitlines()
    for name in ("mean KL", "p99 KL", "top-1", "same answers"):
        assert name in heads
    assert f"{measured.divergence.mean_kl:.4f} ±" in row
    assert f"{measured.divergence.top_1_agreement:.1%} ±" in row
