import torch

from training.cpu import autocast, has_bf16, training_session


def test_training_session_sets_threads_and_restores_them() -> None:
    before = torch.get_num_threads()
    with training_session(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_training_session_leaves_threads_alone() -> None:
    before = torch.get_num_threads()
    with training_session(None):
        assert torch.get_num_threads() == before


def test_autocast_multiplies_in_the_format_of_the_cpu() -> None:
    expected = torch.bfloat16 if has_bf16() else torch.float32
    with autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected
