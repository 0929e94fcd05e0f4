"""Parity: the graph against torch, over ragged batches that join, leave, chunk, copy and roll back.

Every token that the graph sees is compared: at each position with one full forward pass of the
torch model over that row alone, in float64. No number is right for all models: how far float32 is
from float64 grows with the logits and with the depth. So torch's own float32 is measured over the
same tokens, and the graph may be a small multiple of that away.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
import torch
from rich.progress import Progress
from transformers import PreTrainedModel

from everloop.manifest import ParityReport
from everloop.progress import meter
from training.export.float64 import Wide, float64_logits, hold_wide
from training.export.session import ReferenceRunner

MIN_MODEL_LEN = 32
_SLOTS = 4
_DIRT = 7.7  # value of unused cache: any read of it shows
_LONGEST = 384  # tokens of the longest row; longer ones cost time and prove nothing new
_MAX_ROW_LOGITS = (
    32 * 2**20
)  # of one row, 128 MiB in float32: 128 tokens of the widest vocabularies


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


def measure_parity(
    model: PreTrainedModel,
    session: ort.InferenceSession,
    *,
    max_model_len: int,
    max_query_len: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> ParityReport:
    """Run the whole schedule; compare the graph and torch's float32 with float64.

    Args:
        model: the torch model, float32, in evaluation mode.
        session: the fp32 graph.
        max_model_len: of the graph, at least 32.
        max_query_len: of the graph.
        seed: of the random tokens.
        progress: shows the steps of the schedule.
    """
    affordable = _MAX_ROW_LOGITS // model.config.vocab_size
    length = min(max_model_len, _LONGEST, max(MIN_MODEL_LEN, affordable))
    capacity = length + min(max_query_len, length)
    runner = ReferenceRunner(session, slots=_SLOTS, capacity=capacity, fill=_DIRT)
    generator = np.random.default_rng(seed)
    held = hold_wide(model)
    rows = [_Row(model, held) for _ in range(_SLOTS)]
    compared: list[_Distances] = []
    steps = list(parity_steps(length, max_query_len, is_recurrent=runner.is_recurrent))
    show = meter(progress, "Agreement with torch", len(steps) + _SLOTS)
    for step in steps:
        for slot in (*step.free, *step.roll_back):
            compared += rows[slot].distances()
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
        show(1)
    for row in rows:
        compared += row.distances()
        show(1)
    return _report(compared)


class _Distances(NamedTuple):
    """Of one position from float64, and how large its logits are; all as root mean squares."""

    graph: float
    torch: float
    scale: float


def _report(compared: Sequence[_Distances]) -> ParityReport:
    """The position where the graph is furthest away, as a multiple of what float32 must be allowed.

    That is what torch's float32 is away at the same position, or on average where it happens to
    come close there, and never less than the spacing of float32 numbers of the logits' size.
    """
    graph, plain, scale = np.array(compared).T
    average = np.sqrt(np.square(plain).mean())
    allowed = np.maximum(np.maximum(plain, average), np.finfo(np.float32).eps * scale)
    ratios = graph / np.maximum(allowed, np.finfo(np.float32).tiny)
    worst = int(ratios.argmax())  # the first that is no number, if there is one
    return ParityReport(
        ratio=float(ratios[worst]),
        graph_distance=float(graph[worst]),
        torch_distance=float(allowed[worst]),
    )


class _Row:
    """The tokens of one slot with the graph's logits at each."""

    def __init__(self, model: PreTrainedModel, held: Wide) -> None:
        self._model = model
        self._held = held
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
    def distances(self) -> list[_Distances]:
        if not self._tokens:
            return []
        plain = self._model(torch.tensor([self._tokens])).logits[0].numpy()
        exact = float64_logits(self._model, self._tokens, self._held).numpy()
        return [
            _Distances(_rms(graph - right), _rms(torch32 - right), _rms(right))
            for graph, torch32, right in zip(self._logits, plain, exact, strict=True)
        ]


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).mean()))
