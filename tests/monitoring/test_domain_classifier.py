import random

import pytest

from monitoring.domain_classifier import text_auc

PYTHON = ("open a file", "sort a list", "read a line", "join two strings", "copy a dict")
KITCHEN = ("boil an egg", "roast a duck", "bake a cake", "peel an onion", "grill a fish")


def questions(topic: tuple[str, ...], count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [f"how do I {draw.choice(topic)} with {draw.choice('abcdefgh')}?" for _ in range(count)]


def test_text_auc_of_one_source_is_near_a_half() -> None:
    auc = text_auc(questions(PYTHON, 600, 1), questions(PYTHON, 300, 2), seed=0)
    assert 0.4 < auc < 0.6


def test_text_auc_of_two_topics_is_near_one() -> None:
    assert text_auc(questions(PYTHON, 300, 1), questions(KITCHEN, 300, 2), seed=0) > 0.99


def test_text_auc_rises_with_the_share_of_the_new_topic() -> None:
    reference = questions(PYTHON, 300, 1)
    mixed = questions(PYTHON, 200, 2) + questions(KITCHEN, 100, 3)
    assert 0.6 < text_auc(reference, mixed, seed=0) < 0.9


def test_text_auc_repeats_with_its_seed() -> None:
    windows = questions(PYTHON, 300, 1), questions(PYTHON, 300, 2)
    assert text_auc(*windows, seed=7) == text_auc(*windows, seed=7)


@pytest.mark.parametrize("odd", ["", "?", "你好世界", "\x00\ud7ff", "long " * 5_000])
def test_text_auc_survives_odd_text(odd: str) -> None:
    assert 0 <= text_auc([odd] * 10, questions(PYTHON, 10, 1), seed=0) <= 1
