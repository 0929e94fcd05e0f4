import numpy as np

from serving.engine.pooling import embedding, pool_rows
from serving.engine.row_sampler import SampledRow
from serving.engine.scheduler import ScheduledRow
from serving.engine.sequence import Sequence
from tests.serving.engine.conftest import make_sequence


def _sequence(size: int) -> Sequence:
    sequence = make_sequence(list(range(size)))
    sequence.hidden_sum = np.zeros(2)
    return sequence


def test_embedding_is_the_mean_over_all_chunks() -> None:
    long, short = _sequence(3), _sequence(1)
    rows = [ScheduledRow(long, [0, 1], 2), ScheduledRow(short, [0], 1)]
    hidden = np.array([[1, 2], [3, 4], [9, 9]], np.float32)
    assert pool_rows(rows, hidden) == [SampledRow([]), SampledRow([])]
    long.num_computed_tokens = 2
    short.num_computed_tokens = 1
    assert embedding(long) is None
    pool_rows([ScheduledRow(long, [2], 1)], np.array([[2, 0]], np.float32))
    long.num_computed_tokens = 3
    np.testing.assert_array_equal(embedding(long), np.array([2, 2], np.float32))
    np.testing.assert_array_equal(embedding(short), np.array([9, 9], np.float32))


def test_generation_has_no_embedding() -> None:
    sequence = make_sequence([1])
    sequence.num_computed_tokens = 1
    assert embedding(sequence) is None
