import numpy as np
import pytest

from training.export.heads import HeadLayout, place


@pytest.mark.parametrize(
    ("stored", "pairs", "width"),
    [
        (64, 32, 64),  # Llama
        (80, 16, 80),  # Phi-2: 32 of 80 rotated
        (80, 10, 96),  # Pythia-2.8b: 20 of 80 rotated
        (8, 4, 16),
        (24, 12, 32),
        (4, 0, 8),  # TinyStories-1M: no rotary positions
        (40, 0, 40),
    ],
)
def test_width_is_one_that_the_operator_takes(stored: int, pairs: int, width: int) -> None:
    assert HeadLayout(stored, pairs).width == width


def test_heads_that_fit_stay_as_they_are() -> None:
    layout = HeadLayout(64, 16)

    assert layout.query_places().tolist() == list(range(64))
    assert layout.value_places().tolist() == list(range(64))


def test_rotated_halves_are_widened_each_for_itself() -> None:
    layout = HeadLayout(stored=9, pairs=3)

    zeros = [-1] * 5
    assert layout.query_places().tolist() == [0, 1, 2, *zeros, 3, 4, 5, *zeros, 6, 7, 8, *[-1] * 13]
    assert layout.value_places().tolist() == [*range(9), *[-1] * 23]
    assert layout.padded_pairs == 8


def test_place_puts_heads_behind_one_another() -> None:
    places = place(np.array([20, 0]), np.array([0, -1, 1]))

    assert places.tolist() == [20, -1, 21, 0, -1, 1]
