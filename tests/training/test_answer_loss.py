"""The loss in pieces is the plain loss, and so are its gradients, whatever the architecture."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.tiny_model import FAMILIES, make_tiny_checkpoint
from training import answer_loss
from training.answer_loss import learn_in_pieces
from training.pretrained import load_network
from training.row_attention import read_by_rows
from training.sft_rows import Collator, RowsCollator

Batch = dict[str, Tensor]
LENGTHS = (41, 9, 30, 3)
# Of the others, those that differ in attention or head are in the fast suite.
QUICK = ("qwen3", "mistral", "gemma2", "granite", "gpt2", "gpt_neo")
TRANSFORMERS = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in FAMILIES
    if name not in ("lstm", "gru")
]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pieces of seven positions, so that a batch takes several, the last one not full."""
    monkeypatch.setattr(answer_loss, "_LOGITS", 7 * 259)
    yield


def _rows() -> list[dict[str, Any]]:
    random = torch.Generator().manual_seed(3)
    rows = []
    for length in LENGTHS:
        ids = torch.randint(3, 259, (length,), generator=random).tolist()
        asked = length // 3
        rows.append({"input_ids": ids, "labels": [-100] * asked + ids[asked:]})
    return rows


def _loss_and_gradients(
    network: PreTrainedModel, batch: Batch, **options: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    network.zero_grad()
    loss = network(**batch, use_cache=False, num_items_in_batch=50, **options).loss
    loss.backward()
    return loss.detach(), {
        name: parameter.grad.clone()
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }


def _assert_same(
    found: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]]
) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=2e-5, atol=0)
    assert found[1].keys() == expected[1].keys()
    largest = max(float(gradient.abs().max()) for gradient in expected[1].values())
    for name, gradient in expected[1].items():
        torch.testing.assert_close(
            found[1][name],
            gradient,
            rtol=2e-3,
            atol=2e-5 * largest,
            msg=lambda text, n=name: n + text,
        )


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_rows_without_padding_give_the_loss_and_gradients_of_padded_ones(
    family: str, tmp_path: Path
) -> None:
    network = load_network(make_tiny_checkpoint(tmp_path, family=family)).eval()
    expected = _loss_and_gradients(network, Collator(0)(_rows()))
    assert learn_in_pieces(network)
    _assert_same(_loss_and_gradients(network, Collator(0)(_rows())), expected)
    reads_rows = read_by_rows(network)
    # One has no exchangeable attention, the other does not tell it where rows begin.
    assert reads_rows == (family not in ("gpt_neo", "stablelm"))
    if reads_rows:
        _assert_same(_loss_and_gradients(network, RowsCollator()(_rows())), expected)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_recurrent_network_learns_in_pieces_of_padded_rows(cell: str, tmp_path: Path) -> None:
    network = load_network(make_tiny_checkpoint(tmp_path, family=cell)).train()
    expected = _loss_and_gradients(network, Collator(0)(_rows()))
    assert learn_in_pieces(network)
    assert not read_by_rows(network)
    _assert_same(_loss_and_gradients(network, Collator(0)(_rows())), expected)


def test_smoothing_and_untied_heads(tmp_path: Path) -> None:
    network = load_network(make_tiny_checkpoint(tmp_path, is_tied=False)).train()
    batch = Collator(0)(_rows())
    logits = network(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), label_smoothing=0.2, reduction="sum"
    )
    assert learn_in_pieces(network)
    found, _ = _loss_and_gradients(network, batch, label_smoothing=0.2)
    torch.testing.assert_close(found, expected.detach() / 50)
    with torch.no_grad():
        mean = network(**batch, use_cache=False).loss
    plain = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch["labels"][:, 1:].flatten()
    )
    torch.testing.assert_close(mean, plain.detach())


def test_frozen_weights_get_no_gradient(tmp_path: Path) -> None:
    network = load_network(make_tiny_checkpoint(tmp_path)).train()
    network.requires_grad_(False)
    learnt = network.model.layers[1].mlp.down_proj.weight.requires_grad_()
    assert learn_in_pieces(network)
    _, gradients = _loss_and_gradients(network, Collator(0)(_rows()))
    assert list(gradients) == ["model.layers.1.mlp.down_proj.weight"]
    assert learnt.grad is not None


def test_logits_of_another_kind_are_left_to_the_network(tmp_path: Path) -> None:
    network = load_network(make_tiny_checkpoint(tmp_path)).train()
    plain = network.forward

    def doubled(*args: Any, **inputs: Any) -> Any:
        output = plain(*args, **inputs)
        output.logits = output.logits * 2
        return output

    network.forward = doubled
    assert not learn_in_pieces(network)
    assert network.forward is doubled
    assert network.training
