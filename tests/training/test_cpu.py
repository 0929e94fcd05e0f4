import pytest
import torch

from training.cpu import autocast, training_session


def test_training_session_sets_threads_and_restores_them() -> None:
    before = torch.get_num_threads()
    with training_session(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_training_session_leaves_threads_alone() -> None:
    before = torch.get_num_threads()
    with training_session(None):
        assert torch.get_num_threads() == before


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
def test_autocast_multiplies_in_the_given_format(products: torch.dtype) -> None:
    with autocast(products):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == products
