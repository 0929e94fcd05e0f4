"""Documents that share a window or a sequence give what each gives alone."""

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from training.config import Kind, ModelConfig
from training.models import build_model
from training.sft_rows import Collator, EncodedRow, pack_rows
from training.tokens import SpecialTokenIds
from training.windows import as_example, document_positions

SEPARATOR = 0
KINDS: tuple[Kind, ...] = ("transformer", "lstm", "gru")


def _model(kind: Kind) -> PreTrainedModel:
    config = ModelConfig(kind=kind, size="1m", context_length=64)
    return build_model(config, 300, SpecialTokenIds(bos=0, pad=0, eos=(0, 2)), 0).eval()


def _documents(*lengths: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [np.array([SEPARATOR, *random.integers(3, 300, length - 1)]) for length in lengths]


@torch.no_grad()
def _logits(model: PreTrainedModel, **inputs: object) -> torch.Tensor:
    batch = {name: torch.tensor(np.array(value))[None] for name, value in inputs.items()}
    return model(**batch, use_cache=False).logits[0]


def test_document_positions_count_from_each_separator() -> None:
    assert document_positions(np.array([5, 6, 0, 7, 8, 0]), 0).tolist() == [0, 1, 0, 1, 2, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_never_sees_its_neighbour(kind: Kind) -> None:
    model, documents = _model(kind), _documents(9, 17, 6)
    window = np.concatenate([*documents, [5]])
    example = as_example(window, SEPARATOR)
    packed = _logits(model, input_ids=example["input_ids"], position_ids=example["position_ids"])
    apart = torch.cat([_logits(model, input_ids=document) for document in documents])
    torch.testing.assert_close(packed, apart, atol=2e-5, rtol=0)
    together = _logits(model, input_ids=example["input_ids"])
    assert (packed - together)[9:].abs().max() > 1e-3  # and without the borders it does


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_packed_rows_give_the_loss_of_rows_apart(kind: Kind) -> None:
    model = _model(kind)
    rows = [EncodedRow(ids.tolist(), ids.tolist()) for ids in _documents(20, 11, 7, 30)]
    collate = Collator(pad_token_id=0)

    def total_loss(batch: list[EncodedRow]) -> torch.Tensor:
        columns = [
            {"input_ids": row.input_ids, "labels": row.labels, "position_ids": row.position_ids}
            for row in batch
        ]
        with torch.no_grad():
            return model(**collate(columns), use_cache=False, num_items_in_batch=1).loss

    packed = pack_rows(rows, context_length=40)
    assert [row.length for row in packed] == [30, 38]
    torch.testing.assert_close(total_loss(packed), total_loss(rows), atol=1e-3, rtol=0)


def test_pack_rows_fits_best_and_ignores_first_labels() -> None:
    rows = [EncodedRow([token] * length, [token] * length) for token, length in
            ((1, 4), (2, 6), (3, 3), (4, 5))]  # fmt: skip
    first, second = pack_rows(rows, context_length=10)
    assert first.input_ids == [2] * 6 + [1] * 4
    assert second.input_ids == [4] * 5 + [3] * 3
    assert first.labels == [-100, *[2] * 5, -100, *[1] * 3]
    assert first.position_ids == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]


def test_collator_counts_padding_as_one_more_row() -> None:
    rows = [
        {"input_ids": [7, 8, 9], "labels": [-100, 8, 9], "position_ids": [0, 1, 2]},
        {"input_ids": [7], "labels": [-100], "position_ids": [0]},
    ]
    batch = Collator(pad_token_id=0, multiple=4)(rows)
    assert batch["input_ids"].tolist() == [[7, 8, 9, 0], [7, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 8, 9, -100], [-100, -100, -100, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0], [0, 0, 1, 2]]
