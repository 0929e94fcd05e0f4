"""What is measured of the sampler, on a small vocabulary."""

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks import sampling
from benchmarks.report import Result
from serving.engine.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[Vocabulary]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "VOCAB_SIZE", 600)
        yield sampling.make_vocabulary()


@pytest.mark.parametrize("case", sampling.CASES, ids=lambda case: case.name)
def test_measure_runs_both_sides_of_every_case(case: sampling.Case, vocabulary: Vocabulary) -> None:
    results = sampling.measure(case, 32, vocabulary, rounds=3, step_seconds=0.04)
    assert all(result.value > 0 for result in results)
    units = [result.unit for result in results]
    assert units == ["us", *(["steps/s"] if case.has_peer else []), "% of a step"]


def test_a_step_is_judged_by_its_targets() -> None:
    greedy, sampled = sampling.CASES[0], sampling.CASES[1]
    [one] = sampling.results(greedy, 1, [29.0, 31.0, 28.0], [], None, None)
    assert (one.name, one.value, one.target, one.ok) == ("greedy, 1 row", 29.0, 30.0, True)
    [many, against, share] = sampling.results(
        sampled, 32, [2500.0, 2400.0], [50_000.0, 60_000.0], 0.04, 0.1
    )
    assert (many.value, many.target, many.ok) == (2450.0, 2000.0, False)
    assert (against.ratio, against.ratio_range) == (22.5, (20.0, 25.0))
    assert share == Result.of_values(
        "temperature, 32 rows", "% of a step", [6.25, 6.0], at_most=5.0, cpu_pressure=0.1
    )


def test_textbook_leaves_the_logits_as_they_are() -> None:
    logits = np.random.default_rng(0).standard_normal((2, 50)).astype(np.float32)
    before = logits.copy()
    assert sampling.textbook_seconds(logits, sampling.CASES[5].params) > 0
    assert (logits == before).all()
