import numpy as np
import pytest

from benchmarks.stepping import read_in_chunks, read_token_by_token
from tests.benchmarks.stepped_models import CountingModel

WINDOWS = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]])


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_both_ways_give_the_logits_of_the_same_places(rows: int) -> None:
    wide = np.zeros((3, 2, 20), np.float32)
    for number, at, logits in read_in_chunks(CountingModel("wide", 20), WINDOWS, 2):
        wide[number, at] = logits
    narrow = np.zeros_like(wide)
    for number, at, logits in read_token_by_token(CountingModel("one", 20), WINDOWS, 2, rows):
        narrow[number, at] = logits
    assert (wide == narrow).all()
    assert wide.argmax(axis=-1).tolist() == [[4, 5], [8, 9], [12, 13]]


def test_token_by_token_steps_so_many_rows() -> None:
    model = CountingModel("one", 20)
    list(read_token_by_token(model, WINDOWS, 2, 2))
    assert model.works[:3] == [None, {0: [1], 1: [5]}, {0: [2], 1: [6]}]
    assert model.works[5:7] == [None, {0: [9]}]
