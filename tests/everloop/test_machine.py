from pathlib import Path

import pytest
from numpy._core import _multiarray_umath

from everloop import machine


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("model name\t: Some CPU\nflags\t\t: avx2 avx512f avx_vnni amx_int8\n")
    monkeypatch.setattr(machine, "_CPUINFO", file)


def _features(monkeypatch: pytest.MonkeyPatch, **features: bool) -> None:
    monkeypatch.setattr(_multiarray_umath, "__cpu_features__", features)


def test_the_name_is_the_one_that_linux_tells(linux: None) -> None:
    assert machine.processor() == "Some CPU"


def test_instructions_that_numpy_does_not_know_come_from_linux(
    linux: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    _features(monkeypatch, SSE2=True, AVX2=True, AVX512F=True)
    assert machine.instruction_sets() == ("AVX2", "AVX512F", "AVX_VNNI", "AMX_INT8")


def test_inside_an_emulator_the_host_is_not_believed(
    linux: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    _features(monkeypatch, SSE2=True, AVX2=True, AVX512F=False)
    assert machine.instruction_sets() == ("AVX2",)
