import random

import pytest

from benchmarks import cleaning_noise as noise
from benchmarks.cleaning_pii import PERSONAL

TEXT = "The quick brown fox jumps over the lazy dog and goes on to say no more about it."


def test_edit_changes_about_the_share_that_is_asked_for() -> None:
    text = " ".join([TEXT] * 60)
    assert noise.edit(text, 0.0, ["new"], random.Random(1)) == text
    edited = noise.edit(text, 0.1, ["new"], random.Random(1)).split(" ")
    assert 0.05 < edited.count("new") / len(edited) < 0.1


def test_mojibake_is_another_text_of_the_same_bytes() -> None:
    assert noise.mojibake("naïve", random.Random(3)) != "naïve"
    assert noise.mojibake("plain", random.Random(3)) == "plain"
    clean = noise.accented(TEXT, random.Random(1))
    assert not clean.isascii()


@pytest.mark.parametrize("kind", PERSONAL)
def test_personal_data_differs_and_has_no_blank_around(kind: str) -> None:
    chance = random.Random(1)
    values = {PERSONAL[kind](chance) for _ in range(50)}
    assert len(values) == 50
    assert all(value == value.strip() for value in values)


def test_planted_iban_has_the_check_digits_of_the_standard() -> None:
    number = PERSONAL["iban"](random.Random(1)).replace(" ", "")
    assert int("".join(str(int(sign, 36)) for sign in number[4:] + number[:4])) % 97 == 1
