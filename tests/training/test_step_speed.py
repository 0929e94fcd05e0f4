import dataclasses

from everloop.machine_record import TorchSpeed
from training.numerics import Numerics
from training.step_speed import StepWork

# The processor on which bf16 is imitated: 6 x 3 M x 2,048 tokens are 37 GFLOP, 0.39 s in fp32.
WORK = StepWork(
    parameters=3_000_000,
    tokens=2048,
    threads=2,
    numerics=Numerics(),
    speed=TorchSpeed(version="2.13.0", threads=2, fp32=95.0, bf16=0.9),
)


def test_a_step_at_the_speed_of_its_products_is_not_complained_of() -> None:
    assert WORK.complaint(1.2, busy_seconds=2.2) is None


def test_imitated_bf16_is_named_as_the_reason() -> None:
    work = dataclasses.replace(WORK, numerics=Numerics(products="fp32", muon="bf16"))

    complaint = work.complaint(10.0, busy_seconds=19.0)

    assert complaint is not None
    assert "26 times what its products do" in complaint
    assert "a new run would take fp32" in complaint


def test_other_processes_are_named_as_the_reason() -> None:
    complaint = WORK.complaint(10.0, busy_seconds=4.0)

    assert complaint is not None
    assert "other processes take the cores" in complaint
