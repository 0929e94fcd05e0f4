import pytest

from training.answer_score import answer_score


def test_answer_score_is_one_for_the_reference_and_zero_for_nothing_in_common() -> None:
    assert answer_score("Return the sum.", "Return the sum.") == pytest.approx(1.0)
    assert answer_score("xyz", "Return the sum.") == 0.0
    assert answer_score("", "Return the sum.") == 0.0


def test_answer_score_orders_answers() -> None:
    reference = "Return a list of the files in the directory."
    close = answer_score("Return the list of files in a directory.", reference)
    far = answer_score("Raise an error if the socket is closed.", reference)
    assert 0.5 < close < 1
    assert far < close
