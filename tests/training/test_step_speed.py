import pytest

from everloop.machine_record import TorchSpeed
from training.numerics import Numerics
from training.step_speed import StepWork

# 6 x 4 M parameters x 2,000 tokens are 48 GFLOP, half a second in fp32.
FAST = TorchSpeed(version="2", threads=2, fp32=96.0, bf16=480.0)
IMITATED = TorchSpeed(version="2", threads=2, fp32=96.0, bf16=0.9)
BF16 = Numerics(products="bf16", muon="bf16")


def _work(speed: TorchSpeed, numerics: Numerics, threads: int = 2) -> StepWork:
    return StepWork(4_000_000, 2_000, threads, numerics, speed)


@pytest.mark.parametrize(
    ("speed", "numerics", "threads", "limit"),
    [(FAST, Numerics(), 2, 5.0), (FAST, BF16, 2, 1.0), (FAST, Numerics(), 1, 10.0)],
)
def test_ten_times_the_products_is_slow(
    speed: TorchSpeed, numerics: Numerics, threads: int, limit: float
) -> None:
    work = _work(speed, numerics, threads)
    assert work.complaint(0.99 * limit, 1.0) is None
    assert work.complaint(1.01 * limit, 1.0) is not None


def test_the_line_holds_the_numbers() -> None:
    line = _work(FAST, Numerics()).complaint(10.0, 20.0)
    assert line == (
        "a step takes 10.0 s, 20 times what its products do: 6 x 4.0 M parameters x 2,000 tokens "
        "are 48.0 GFLOP, and its threads reach 96 GFLOP/s. The rest goes into small operations: "
        "more tokens a step make better use of it."
    )


def test_imitated_bf16_is_the_reason_where_a_run_was_begun_elsewhere() -> None:
    line = _work(IMITATED, BF16).complaint(10.0, 20.0)
    assert line is not None
    assert "begun in bf16, of which this machine multiplies 0.9 GFLOP/s" in line


def test_other_processes_are_the_reason_where_threads_wait() -> None:
    line = _work(FAST, Numerics()).complaint(10.0, 4.0)
    assert line is not None
    assert "It computed in 20% of its threads' time: other processes take the cores" in line


def test_short_steps_are_not_judged() -> None:
    assert StepWork(1_000, 10, 2, Numerics(), FAST).complaint(0.2, 0.1) is None
