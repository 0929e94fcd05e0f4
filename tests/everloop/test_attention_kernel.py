import os

import pytest

from everloop.attention_kernel import choose_attention_kernel


def test_choice_is_made_unless_a_user_made_one(monkeypatch: pytest.MonkeyPatch) -> None:
    variable = "ORT_GQA_DISABLE_FLASH_ATTENTION"
    monkeypatch.delenv(variable, raising=False)
    choose_attention_kernel()
    assert os.environ[variable] == "1"

    monkeypatch.setenv(variable, "0")
    choose_attention_kernel()
    assert os.environ[variable] == "0"
