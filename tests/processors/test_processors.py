"""The same wheels on processors that are not at hand, by emulation of their instruction sets."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.processors.conftest import PROCESSORS, Versions
from tests.processors.import_process import MODULES
from tests.processors.training_process import losses
from training.export import ExportConfig
from training.numerics import Numerics

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

Report = Callable[[str, str], dict[str, Any]]
on_each = pytest.mark.parametrize("processor", PROCESSORS)


def test_the_processors_are_those_that_are_meant(report: Report) -> None:
    assert "AVX2" in report("Haswell", "engine")["instructions"]
    assert not any(
        name.startswith("AVX512") for name in report("Haswell", "engine")["instructions"]
    )
    assert report("Nehalem", "engine")["instructions"] == []


@on_each
def test_the_fp32_graph_is_as_near_to_float64_as_torch(report: Report, processor: str) -> None:
    ratios = report(processor, "training")["parity"]
    limit = ExportConfig().max_parity_ratio
    assert ratios["sound"] <= limit < ratios["planted"]


@on_each
def test_three_steps_in_fp32_go_where_they_go_here(report: Report, processor: str) -> None:
    found = report(processor, "training")
    assert found["numerics"] == {"products": "fp32", "muon": "fp32"}
    assert found["losses"] == pytest.approx(losses(Numerics()), rel=1e-3)
    assert found["losses"] == sorted(found["losses"], reverse=True)


@on_each
def test_versions_exported_here_generate_their_golden_texts(
    report: Report, versions: Versions, processor: str
) -> None:
    found = report(processor, "engine")["versions"]
    refused = {name for name, folder in versions.folders.items() if "error" in found[str(folder)]}
    assert refused == {"golden"}
    assert "continues with" in found[str(versions.folders["golden"])]["error"]
    assert found[str(versions.folders["fp32-fp32"])]["left_golden_at"] == []


@on_each
def test_answers_keep_what_is_said_of_company(
    report: Report, versions: Versions, processor: str
) -> None:
    found = report(processor, "engine")["versions"]
    said = {}
    for name, folder in versions.folders.items():
        if name != "golden":
            said[name] = found[str(folder)]["batch_invariant"]
            assert found[str(folder)]["equal_in_company"] or not said[name]
    assert said["company"] is False
    assert not found[str(versions.folders["company"])]["equal_in_company"]
    assert {said[name] for name in ("fp32-fp32", "int8-fp32", "int8-int8")} == {True}


def test_every_wheel_imports_without_avx2(report: Report) -> None:
    assert report("Nehalem", "import")["modules"] == list(MODULES)
