from pathlib import Path

import pytest

from everloop.errors import ArtifactError
from everloop.machine_record import MachineRecord, TorchSpeed
from training.numerics import Numerics, choose_numerics, settle_numerics
from training.run_folder import RunFolder

FP32, BF16 = Numerics(), Numerics(products="bf16", muon="bf16")


def record(bf16: float) -> MachineRecord:
    speed = TorchSpeed(version="2.13.0", threads=2, fp32=95.0, bf16=bf16)
    return MachineRecord.of_this_machine().model_copy(update={"torch": speed})


@pytest.mark.parametrize(
    ("bf16", "expected"),
    [(0.9, FP32), (95.0, FP32), (189.0, FP32), (190.0, BF16), (860.0, BF16)],
)
def test_bf16_is_chosen_where_it_is_twice_as_fast(bf16: float, expected: Numerics) -> None:
    assert choose_numerics("cpu", record(bf16)) == expected


@pytest.mark.parametrize("stored", [FP32, BF16])
def test_a_run_goes_on_as_it_began(tmp_path: Path, stored: Numerics) -> None:
    run = RunFolder(tmp_path)
    run.numerics.write_text(stored.model_dump_json(), encoding="utf-8")

    # One of the two is not what this machine would choose.
    assert settle_numerics(run, "cpu") == stored


def test_a_new_run_stores_its_formats(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)

    chosen = settle_numerics(run, "cpu")

    assert chosen == choose_numerics("cpu")
    assert Numerics.model_validate_json(run.numerics.read_text(encoding="utf-8")) == chosen


def test_unreadable_formats_are_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.numerics.write_text('{"products": "fp8"}', encoding="utf-8")

    with pytest.raises(ArtifactError, match="does not say in which formats the run computes"):
        settle_numerics(run, "cpu")
