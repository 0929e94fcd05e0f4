"""Parity: the graph against torch, over ragged batches that join, leave, chunk, copy and roll back.

Every token that the graph sees is compared: at each position its logits must be those of one full
forward pass of the torch model over that row alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnxruntime as ort
import torch
from transformers import PreTrainedModel

from training.export.session import ReferenceRunner

MIN_MODEL_LEN = 32
_SLOTS = 4
_DIRT = 7.7  # value of unused cache: any read of it shows
_LONGEST = 512  # tokens of the longest row; longer ones cost time and prove nothing new
_MAX_ROW_LOGITS = 32 * 2**20  # kept of one row, 128 MiB: 128 tokens of the widest vocabularies


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityStep:
    """One packed batch, with what happens to the slots before it.

    Attributes:
        new_tokens: slot to the number of tokens that it adds.
        free: slots whose sequence ends; their cache stays dirty.
        copy: (source, target, tokens): the target starts with the source's first tokens, or with
            all for None.
        roll_back: slot to the number of tokens that it forgets.
    """

    name: str
    new_tokens: Mapping[int, int]
    free: tuple[int, ...] = ()
    copy: tuple[int, int, int | None] | None = None
    roll_back: Mapping[int, int] = field(default_factory=dict)


def parity_steps(
    max_model_len: int, max_query_len: int, *, is_recurrent: bool = False
) -> Iterator[ParityStep]:
    """Give the schedule: every way in which rows can meet in one batch.

    Chunks stay within max_query_len, rows within max_model_len. A recurrent state stands for all
    tokens so far: it is copied whole and never rolled back.
    """
    unit = min(8, max_model_len // 16, max_query_len // 4) or 1
    everyone = dict.fromkeys(range(_SLOTS), 1)
    yield ParityStep(name="prefill alone", new_tokens={0: 4 * unit})
    yield ParityStep(name="join beside a decode, hole between", new_tokens={0: 1, 2: 3 * unit})
    yield ParityStep(
        name="second chunk, another join, decode", new_tokens={0: 1, 1: unit + 1, 2: 2 * unit}
    )
    for _ in range(2):
        yield ParityStep(name="ragged decode", new_tokens={0: 1, 1: 1, 2: 1})
    yield ParityStep(name="one row of three", new_tokens={1: 1})
    yield ParityStep(name="hole", new_tokens={0: 1, 2: 1})
    yield ParityStep(
        name="leave, shorter row in the dirty slot", free=(0,), new_tokens={0: unit, 1: 1, 2: 1}
    )
    yield ParityStep(
        name="prefix copied",
        copy=(2, 3, None if is_recurrent else 3 * unit),
        new_tokens={0: 1, 1: 1, 2: 1, 3: unit},
    )
    yield ParityStep(name="all decode", new_tokens=everyone)
    yield ParityStep(
        name="rolled back, several tokens to verify",
        roll_back={} if is_recurrent else {2: 3},
        new_tokens={slot: min(4, max_query_len) for slot in range(_SLOTS)},
    )
    longest = min(max_model_len, _LONGEST)
    for start in range(0, longest - 1, max_query_len):
        yield ParityStep(
            name="chunks of a long row",
            free=() if start else (1,),
            new_tokens={1: min(max_query_len, longest - 1 - start)},
        )
    yield ParityStep(
        name="last token of the long row beside the widest chunk",
        free=(3,),
        new_tokens={1: 1, 3: min(max_query_len, longest)},
    )


def max_abs_logit_diff(
    model: PreTrainedModel,
    session: ort.InferenceSession,
    *,
    max_model_len: int,
    max_query_len: int,
    seed: int = 0,
) -> float:
    """Run the whole schedule; give the largest difference of any logit at any position.

    Args:
        model: the torch model, float32, in evaluation mode.
        session: the fp32 graph.
        max_model_len: of the graph, at least 32.
        max_query_len: of the graph.
        seed: of the random tokens.
    """
    affordable = _MAX_ROW_LOGITS // model.config.vocab_size
    length = min(max_model_len, _LONGEST, max(MIN_MODEL_LEN, affordable))
    capacity = length + min(max_query_len, length)
    runner = ReferenceRunner(session, slots=_SLOTS, capacity=capacity, fill=_DIRT)
    generator = np.random.default_rng(seed)
    rows = [_Row(model) for _ in range(_SLOTS)]
    worst = 0.0
    for step in parity_steps(length, max_query_len, is_recurrent=runner.is_recurrent):
        for slot in (*step.free, *step.roll_back):
            worst = max(worst, rows[slot].difference())
        for slot in step.free:
            rows[slot].cut(0)
            runner.lengths[slot] = 0
        for slot, tokens in step.roll_back.items():
            runner.lengths[slot] -= tokens
            rows[slot].cut(int(runner.lengths[slot]))
        if step.copy:
            source, target, given = step.copy
            tokens = int(runner.lengths[source]) if given is None else given
            runner.copy_prefix(source, target, tokens)
            rows[target].start_from(rows[source], tokens)
        work = {
            slot: generator.integers(0, model.config.vocab_size, count).tolist()
            for slot, count in step.new_tokens.items()
        }
        for slot, logits in runner.step(work).items():
            rows[slot].extend(work[slot], logits)
    return max(worst, *(row.difference() for row in rows))


class _Row:
    """The tokens of one slot with the graph's logits at each."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._tokens: list[int] = []
        self._logits: list[np.ndarray] = []

    def extend(self, tokens: list[int], logits: np.ndarray) -> None:
        self._tokens += tokens
        self._logits += list(logits)

    def cut(self, length: int) -> None:
        del self._tokens[length:], self._logits[length:]

    def start_from(self, other: "_Row", length: int) -> None:
        self._tokens = other._tokens[:length]
        self._logits = other._logits[:length]

    @torch.no_grad()
    def difference(self) -> float:
        if not self._tokens:
            return 0.0
        expected = self._model(torch.tensor([self._tokens])).logits[0].numpy()
        return float(np.abs(np.stack(self._logits) - expected).max())
