"""What choosing tokens costs in a step, next to the textbook's full sort of the vocabulary.

    .venv/bin/python -m benchmarks.sampling [--quick] [--json] [--step-milliseconds 40]

Random logits of SmolLM2's vocabulary. In every round each side chooses the tokens of the same rows
once, one after the other. With the time of a decode step of 32 rows, as `benchmarks.engine` prints
it, the cost is given as a share of that step too.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from benchmarks.report import PressureMeter, Result, parser, publish
from serving.engine.detokenizer import Detokenizer
from serving.engine.logits_processor import LogitsProcessor
from serving.engine.row_sampler import sample_rows
from serving.engine.sampling_params import SamplingParams, StructuredOutput
from serving.engine.scheduler import ScheduledRow
from serving.engine.sequence import Sequence
from serving.engine.structured_output import GrammarCompiler
from serving.engine.vocabulary import Vocabulary

VOCAB_SIZE = 49_152
ROWS = (1, 8, 32)
SEEN_TOKENS = 256
GREEDY_MICROSECONDS = 30.0  # at 1 row
SAMPLED_MICROSECONDS = 2000.0  # at 32 rows
STEP_SHARE = 5.0  # percent of a step of 32 rows
EOS = 0
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Case:
    """Parameters whose cost is measured; the peer is measured where it does the same."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    has_peer: bool = True

    @property
    def params(self) -> SamplingParams:
        """Of a request."""
        return SamplingParams(max_tokens=1 << 20, seed=1, **self.settings)


CASES = (
    Case("greedy", {"temperature": 0.0}, has_peer=False),
    Case("temperature", {"temperature": 0.8}),
    Case("top_k 50", {"top_k": 50}),
    Case("top_p 0.95", {"temperature": 0.8, "top_p": 0.95}),
    Case("min_p 0.05", {"min_p": 0.05}),
    Case("top_k 50, top_p 0.95, min_p 0.02", {"top_k": 50, "top_p": 0.95, "min_p": 0.02}),
    Case(
        "three penalties, top_p 0.95",
        {
            "repetition_penalty": 1.1,
            "frequency_penalty": 0.2,
            "presence_penalty": 0.1,
            "top_p": 0.95,
        },
        has_peer=False,
    ),
    Case("greedy, 5 logprobs", {"temperature": 0.0, "logprobs": 5}, has_peer=False),
    Case(
        "JSON schema, temperature",
        {"structured": StructuredOutput("json_schema", json.dumps(SCHEMA))},
        has_peer=False,
    ),
)


def make_vocabulary() -> Vocabulary:
    """Every byte, and random pieces of two to seven characters."""
    random = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ0123456789.,:;-{}[]Ġ"))
    tokens = dict.fromkeys(["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())])
    while len(tokens) < VOCAB_SIZE:
        tokens["".join(random.choice(letters, random.integers(2, 8)))] = None
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return Vocabulary(tokenizer)


class Ours:
    """The engine's sampler on rows that decode.

    Args:
        case: what they ask for.
        count: rows.
        vocabulary: for grammars.
    """

    def __init__(self, case: Case, count: int, vocabulary: Vocabulary) -> None:
        self._params = case.params
        self._vocabulary = vocabulary
        self._grammars = GrammarCompiler(vocabulary, VOCAB_SIZE, [EOS])
        self._random = np.random.default_rng(0)
        self._rows = [self._row() for _ in range(count)]

    def seconds(self, logits: Logits) -> float:
        """Choose the next token of every row."""
        started = time.perf_counter()
        sampled = sample_rows(self._rows, logits)
        seconds = time.perf_counter() - started
        for index, (row, new) in enumerate(zip(self._rows, sampled, strict=True)):
            if new.error:
                raise new.error
            row.sequence.token_ids += new.token_ids
            row.sequence.num_computed_tokens += 1
            is_ended = new.token_ids[-1] == EOS or row.sequence.is_structure_complete
            if is_ended and self._params.structured:
                self._rows[index] = self._row()
        return seconds

    def _row(self) -> ScheduledRow:
        params = self._params
        prompt = self._random.integers(1, VOCAB_SIZE, SEEN_TOKENS).tolist()
        sequence = Sequence("0", prompt, params, 1, Detokenizer(self._vocabulary), 0.0)
        sequence.num_computed_tokens = len(prompt) - 1
        if LogitsProcessor.is_needed(params):
            grammar = self._grammars.start(params.structured) if params.structured else None
            sequence.logits_processor = LogitsProcessor(params, prompt, [EOS], grammar)
        return ScheduledRow(sequence, prompt[-1:], 1)


def textbook_seconds(logits: Logits, params: SamplingParams) -> float:
    """Sort every row, cut it, and invert what is left of its distribution."""
    number = np.random.default_rng(0).random((len(logits), 1), np.float32)
    started = time.perf_counter()
    scaled = logits / np.float32(params.temperature)
    order = np.argsort(-scaled, axis=-1)
    weights = np.take_along_axis(scaled, order, -1)
    weights = np.exp(weights - weights[:, :1])
    if params.top_k is not None:
        weights[:, params.top_k :] = 0
    share = weights / weights.sum(-1, keepdims=True)
    weights[share.cumsum(-1) - share >= params.top_p] = 0
    weights[weights < params.min_p] = 0
    cumulative = weights.cumsum(-1)
    places = (cumulative <= number * cumulative[:, -1:]).sum(-1)
    order[np.arange(len(logits)), places.clip(max=logits.shape[1] - 1)].tolist()
    return time.perf_counter() - started


def measure(
    case: Case, count: int, vocabulary: Vocabulary, rounds: int, step_seconds: float | None = None
) -> list[Result]:
    """Measure a case at a number of rows.

    Args:
        case: the parameters.
        count: rows.
        vocabulary: for grammars.
        rounds: of both sides.
        step_seconds: of a decode step of 32 rows; None leaves the share of it out.
    """
    random = np.random.default_rng(1)
    logits = (random.standard_normal((count, VOCAB_SIZE)) * 3).astype(np.float32)
    buffer = np.empty_like(logits)
    ours = Ours(case, count, vocabulary)
    meter = PressureMeter()
    values, peers = [], []
    for _ in range(rounds):
        logits = np.roll(logits, 1, axis=-1)  # other tokens win in the next step
        np.copyto(buffer, logits)
        values.append(ours.seconds(buffer) * 1e6)
        if case.has_peer:
            np.copyto(buffer, logits)
            peers.append(textbook_seconds(buffer, case.params) * 1e6)
    return results(case, count, values, peers, step_seconds, meter.read())


def results(
    case: Case,
    count: int,
    values: list[float],
    peers: list[float],
    step_seconds: float | None,
    pressure: float | None,
) -> list[Result]:
    """Judge what was measured.

    Args:
        case: the parameters.
        count: rows.
        values, peers: microseconds of every round; no peers for a case without.
        step_seconds: see `measure`.
        pressure: of a PressureMeter.
    """
    name = f"{case.name}, {count} row{'s' if count > 1 else ''}"
    limits = {("greedy", 1): GREEDY_MICROSECONDS}
    limit = limits.get((case.name, count), SAMPLED_MICROSECONDS if count == ROWS[-1] else None)
    judged = [Result.of_values(name, "us", values, at_most=limit, cpu_pressure=pressure)]
    if peers:
        speeds, peer_speeds = ([1e6 / value for value in side] for side in (values, peers))
        judged.append(
            Result.of_rounds(
                f"{name}, against a full sort",
                "steps/s",
                speeds,
                peer_speeds,
                cpu_pressure=pressure,
            )
        )
    if step_seconds and count == ROWS[-1]:
        shares = [value / 1e4 / step_seconds for value in values]
        judged.append(
            Result.of_values(name, "% of a step", shares, at_most=STEP_SHARE, cpu_pressure=pressure)
        )
    return judged


def measure_all(
    rounds: int, step_seconds: float | None, advance: Callable[[], None]
) -> list[Result]:
    """Measure every case at every number of rows; `advance` is called after each."""
    vocabulary = make_vocabulary()
    measured = []
    for case in CASES:
        for count in ROWS:
            measured += measure(case, count, vocabulary, rounds, step_seconds)
            advance()
    return measured


def main() -> None:
    """Measure and print."""
    options = parser("The cost of choosing tokens, next to a full sort.")
    options.add_argument(
        "--step-milliseconds", type=float, help="of a decode step of 32 rows, for the share of it"
    )
    arguments = options.parse_args()
    step = arguments.step_milliseconds
    meter = PressureMeter()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("measuring", total=len(CASES) * len(ROWS))
        measured = measure_all(
            20 if arguments.quick else 100,
            step / 1000 if step else None,
            lambda: progress.advance(bar),
        )
    publish("sampling", measured, arguments, meter.read())


if __name__ == "__main__":
    main()
