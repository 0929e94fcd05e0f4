"""How far quantized answers lie from fp32's: ours beside llama.cpp's, on the same weights and text.

    .venv/bin/python -m benchmarks.quality --model FOLDER [--text FILE] [--quick] [--json]
        [--precision int8,int8-kv8] [--windows 40] [--prompts 100]

FOLDER is a Hugging Face folder, FILE plain text (Python's documentation if none is given). Each
side is compared with its own fp32 model over windows of 256 tokens, from token 128 on, in three
ways: the window in one step, as prompts are read; a token a step, as answers are decoded, alone and
with eight rows. The cache is calibrated on other text. Chat prompts are answered greedily, up to 64
tokens. Intervals are 95 % of a bootstrap over windows, or prompts, the same for both sides. Without
llama.cpp (`make bench-peers`) our own figures remain.
"""

import argparse
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.divergence import Interval, difference_of_means, ratio_of_means
from benchmarks.engine import names
from benchmarks.peers import llama_model
from benchmarks.peers.llama_cpp import write_model
from benchmarks.peers.llama_model import LlamaModel
from benchmarks.precisions import PRECISIONS
from benchmarks.quality_data import QualityData, export_precision, read_data
from benchmarks.report import PressureMeter, Result, parser, publish
from benchmarks.stepping import (
    GraphModel,
    Logits,
    SteppedModel,
    read_in_chunks,
    read_token_by_token,
)
from everloop.progress import progress_bar
from training.export.chat_answers import answer_greedily
from training.export.divergence import Reference

WINDOW = 256
FIRST = WINDOW // 2  # token of a window that is scored first, as in llama-perplexity
ROWS = 8
MAX_TOKENS = 64
CAPACITY = 512
THREADS = 2
COMPARED = ("int8", "int8-kv8")
MAX_KL_RATIO = 1.05
LEAST_TOP_1, LEAST_GREEDY = -1.0, -10.0  # percentage points
OURS = "everloop"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to put windows through a model.

    Attributes:
        name: for the table.
        rows: that decode together; 0 for whole windows.
        windows: so many of the first are read.
    """

    name: str
    rows: int
    windows: int

    def read(
        self, model: SteppedModel, windows: NDArray[np.int64]
    ) -> Iterator[tuple[int, slice, Logits]]:
        """Number of the window, places from FIRST on, and their logits."""
        if not self.rows:
            return read_in_chunks(model, windows, FIRST)
        return read_token_by_token(model, windows, FIRST, self.rows)


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one precision and one way: [windows, places]."""

    divergences: NDArray[np.float64]
    agreements: NDArray[np.float64]

    @classmethod
    def empty(cls, windows: int) -> "Scores":
        """To be filled."""
        shape = (windows, WINDOW - FIRST)
        return cls(np.zeros(shape), np.zeros(shape))


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one side.

    Attributes:
        scores: by precision and name of the way.
        answers: by precision, whether each answer is that of fp32.
    """

    scores: dict[tuple[str, str], Scores]
    answers: dict[str, NDArray[np.float64]]


def measure(
    exact: SteppedModel,
    models: Mapping[str, SteppedModel],
    data: QualityData,
    ways: Sequence[Way],
    advance: Callable[[], None],
) -> Measured:
    """Compare models with the fp32 model of their side.

    Args:
        exact: the fp32 model.
        models: by precision.
        data: windows and prompts.
        ways: to read the windows.
        advance: called after each of `steps_of`.
    """
    scores = {(name, way.name): Scores.empty(way.windows) for name in models for way in ways}
    for start in range(0, len(data.windows), ROWS):  # the logits of all would take gigabytes
        batch = data.windows[start : start + ROWS]
        expected = [Reference.of(logits) for *_, logits in read_in_chunks(exact, batch, FIRST)]
        for name, model in models.items():
            for way in ways:
                score = scores[name, way.name]
                for number, at, logits in way.read(model, batch[: max(0, way.windows - start)]):
                    reference = expected[number][at]
                    score.divergences[start + number, at] = reference.divergence(logits)
                    score.agreements[start + number, at] = reference.agrees(logits)
                advance()
    wanted = _answers(exact, data)
    advance()
    answers = {}
    for name, model in models.items():
        pairs = zip(_answers(model, data), wanted, strict=True)
        answers[name] = np.array([given == answer for given, answer in pairs], np.float64)
        advance()
    return Measured(scores, answers)


def steps_of(models: int, windows: int, ways: int) -> int:
    """How often `measure` calls `advance`."""
    return -(-windows // ROWS) * models * ways + 1 + models


def _answers(model: SteppedModel, data: QualityData) -> list[list[int]]:
    return list(
        answer_greedily(model, data.prompts, rows=ROWS, max_tokens=MAX_TOKENS, ends=data.ends)
    )


def lines_of(name: str, ours: Measured, theirs: Measured | None, peer: str | None) -> list[Result]:
    """The table's lines of one precision, beside the peer's if there is one."""
    beside = f" / {peer}" if peer else ""
    lines = []
    for (precision, way), mine in ours.scores.items():
        if precision != name:
            continue
        other = theirs.scores[name, way] if theirs else None
        lines += _divergence_lines(f"{name}, {way}", beside, mine, other)
        lines += _share_lines(
            f"{name}, {way}: top-1 agreement",
            beside,
            mine.agreements,
            other.agreements if other else None,
            LEAST_TOP_1,
        )
    title = f"{name}: greedy answers equal to fp32's"
    answers = theirs.answers[name] if theirs else None
    return lines + _share_lines(title, beside, ours.answers[name], answers, LEAST_GREEDY)


def _divergence_lines(what: str, beside: str, ours: Scores, theirs: Scores | None) -> list[Result]:
    mean = Result(
        name=f"{what}: mean KL{beside}",
        value=float(ours.divergences.mean()),
        unit="nats/token",
    )
    p99 = Result(
        name=f"{what}: p99 KL{beside}",
        value=float(np.percentile(ours.divergences, 99)),
        unit="nats/token",
    )
    if theirs is None:
        return [mean, p99]
    ratio = ratio_of_means(ours.divergences, theirs.divergences)
    peer = float(np.percentile(theirs.divergences, 99))
    return [
        replace(
            mean,
            peer=float(theirs.divergences.mean()),
            ratio=ratio.value,
            ratio_range=(ratio.low, ratio.high),
            target=MAX_KL_RATIO,
            ok=ratio.high <= MAX_KL_RATIO,
        ),
        replace(p99, peer=peer, ratio=p99.value / peer),
    ]


def _share_lines(
    what: str,
    beside: str,
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64] | None,
    least: float,
) -> list[Result]:
    share = Result(name=f"{what}{beside}", value=100 * float(ours.mean()), unit="%")
    if theirs is None:
        return [share]
    difference: Interval = difference_of_means(100 * ours, 100 * theirs)
    return [
        replace(share, peer=100 * float(theirs.mean())),
        Result(
            name=f"{what}, difference",
            value=difference.value,
            unit="points",
            value_range=(difference.low, difference.high),
            target=least,
            ok=difference.low > least,
        ),
    ]


def run_side(
    exact: SteppedModel,
    models: Mapping[str, SteppedModel],
    data: QualityData,
    ways: Sequence[Way],
    title: str,
) -> Measured:
    """Load all models of a side and measure them."""
    with ExitStack() as stack, progress_bar() as progress:
        total = steps_of(len(models), len(data.windows), len(ways))
        bar = progress.add_task(title, total=total)
        stack.enter_context(exact)
        loaded = {name: stack.enter_context(model) for name, model in models.items()}
        return measure(exact, loaded, data, ways, lambda: progress.advance(bar))


def run_ours(
    checkpoint: Path, precisions: Sequence[str], data: QualityData, ways: Sequence[Way]
) -> Measured:
    """Export every precision and measure its graph."""
    with tempfile.TemporaryDirectory() as folder:
        models = {}
        for name in ("fp32", *precisions):
            version = export_precision(checkpoint, name, data, CAPACITY, Path(folder) / name)
            models[name] = GraphModel(name, version, ROWS, CAPACITY, THREADS)
        return run_side(models.pop("fp32"), models, data, ways, OURS)


def run_theirs(
    checkpoint: Path, precisions: Sequence[str], data: QualityData, ways: Sequence[Way]
) -> Measured:
    """Make the GGUF files and measure them; F32 has the cache that llama-perplexity gives it."""
    models: dict[str, SteppedModel] = {}
    for name in ("fp32", *precisions):
        kind, cache = _peer_of(name)
        gguf = write_model(checkpoint, kind)
        models[name] = LlamaModel(name, gguf, cache, ROWS, CAPACITY, THREADS)
    return run_side(models.pop("fp32"), models, data, ways, "llama.cpp")


def _peer_of(name: str) -> tuple[str, str]:
    pair = PRECISIONS[name].llama_cpp
    assert pair is not None, "every precision names llama.cpp's"
    return pair


def read_options() -> argparse.Namespace:
    """What the command line asks for."""
    options = parser("Quality of precisions beside llama.cpp's.")
    options.add_argument("--model", type=Path, required=True, help="Hugging Face folder")
    options.add_argument("--text", type=Path, help="plain text; absent: Python's documentation")
    known = tuple(name for name in PRECISIONS if name != "fp32")
    options.add_argument("--precision", type=names(known), default=COMPARED)
    options.add_argument("--windows", type=int)
    options.add_argument("--prompts", type=int, help="of the hundred")
    options.add_argument("--no-peer", action="store_true", help="our own figures only")
    return options.parse_args()


def main() -> None:
    """Measure and print."""
    arguments = read_options()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    quick = arguments.quick
    windows = arguments.windows or (16 if quick else 40)
    prompts = arguments.prompts or (50 if quick else 100)
    ways = (
        Way("prompt in one step", 0, windows),
        Way("a token a step, 1 row", 1, min(windows, 2 if quick else ROWS)),
        Way("a token a step, 8 rows", ROWS, min(windows, ROWS) if quick else windows),
    )
    pressure = PressureMeter()
    data = read_data(
        arguments.model, arguments.text, window=WINDOW, windows=windows, prompts=prompts
    )
    ours = run_ours(arguments.model, arguments.precision, data, ways)
    theirs = None
    if llama_model.is_present() and not arguments.no_peer:
        theirs = run_theirs(arguments.model, arguments.precision, data, ways)
    results = []
    for name in arguments.precision:
        peer = "llama.cpp {}, {} cache".format(*_peer_of(name)) if theirs else None
        results += lines_of(name, ours, theirs, peer)
    settings = {
        "model": arguments.model.resolve().name,
        "text": arguments.text.name if arguments.text else "Python's documentation",
        "windows": ", ".join(f"{way.name}: {way.windows}" for way in ways),
        "chat prompts": prompts,
        "range": "95 % of a paired bootstrap",
    }
    publish("quality", results, arguments, pressure.read(), settings)


if __name__ == "__main__":
    main()
