"""Threads and spinning of the engine, on a machine of its own and beside a busy process.

    .venv/bin/python -m benchmarks.threads [--quick] [--json]

Decode at 1, 8 and 32 rows in int8. In every round each setting runs once, one after the other; all
are compared with the engine's defaults in the same situation. The busy process burns one core; it
is started and ended here.
"""

import argparse
import itertools
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks.random_model import SMOLLM2_135M, TINY, export_version, make_checkpoint
from benchmarks.report import PressureMeter, Result, parser, publish
from serving.engine.config import EngineConfig
from serving.engine.llm_engine import LLMEngine
from serving.engine.sampling_params import SamplingParams
from training.export import ExportConfig

ROWS = (1, 8, 32)
PROMPT_TOKENS = 32

Setting = tuple[int, bool]  # threads, spinning
Situation = str


@contextmanager
def busy_process() -> Iterator[None]:
    """Burn one core."""
    process = multiprocessing.get_context("spawn").Process(target=_burn, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _burn() -> None:
    while True:
        pass


SITUATIONS: dict[Situation, Callable[[], object]] = {"alone": nullcontext, "busy": busy_process}


def decode_speed(engine: LLMEngine, rows: int, tokens: int) -> float:
    """Tokens per second of all rows together, counted after the last row's first token."""
    random = np.random.default_rng(0)
    params = SamplingParams(max_tokens=tokens + 64, temperature=0.0, ignore_eos=True)
    for number in range(rows):
        prompt = random.integers(3, engine.manifest.vocab_size, PROMPT_TOKENS).tolist()
        engine.add_request(str(number), prompt, params)
    begun: set[str] = set()
    while len(begun) < rows:
        begun.update(output.request_id for output in engine.step())
    started = time.perf_counter()
    for _ in range(tokens):
        engine.step()
    seconds = time.perf_counter() - started
    for number in range(rows):
        engine.abort_request(str(number))
    engine.step()
    return tokens * rows / seconds


def measure(
    engines: dict[Setting, LLMEngine], rounds: int, tokens: int, advance: Callable[[], None]
) -> list[Result]:
    """Run all rounds in both situations.

    Args:
        engines: by setting; the first is the peer of all.
        rounds: of every measurement.
        tokens: of every decode.
        advance: called after each round of a situation.
    """
    speeds: dict[tuple[Situation, int, Setting], list[float]] = {}
    for _, (situation, start) in itertools.product(range(rounds), SITUATIONS.items()):
        with start():  # type: ignore[attr-defined]
            for rows, (setting, engine) in itertools.product(ROWS, engines.items()):
                speed = decode_speed(engine, rows, tokens)
                speeds.setdefault((situation, rows, setting), []).append(speed)
        advance()
    default = next(iter(engines))
    return [
        Result.of_rounds(
            f"{situation}, {rows} rows, {threads} threads{', spinning' if spinning else ''}",
            "tokens/s",
            speeds[situation, rows, (threads, spinning)],
            speeds[situation, rows, default],
        )
        for situation in SITUATIONS
        for rows in ROWS
        for threads, spinning in engines
    ]


def settings() -> list[Setting]:
    """The defaults first, then what else may be set."""
    config = EngineConfig()
    default = (config.threads, config.allow_spinning)
    counts = sorted({1, max(config.threads // 2, 1), config.threads})
    others = [
        (threads, spinning)
        for threads in counts
        for spinning in (False, True)
        if threads > 1 or not spinning  # one thread waits for nobody
    ]
    return [default, *(setting for setting in others if setting != default)]


def load_engines(version: Path) -> dict[Setting, LLMEngine]:
    """Load the version once per setting."""
    return {
        (threads, spinning): LLMEngine.load(
            version,
            EngineConfig(num_threads=threads, allow_spinning=spinning, max_slowdown=1000.0),
        )
        for threads, spinning in settings()
    }


def options() -> argparse.Namespace:
    """Read the command line."""
    arguments = parser("Threads and spinning of the engine, alone and beside a busy process.")
    arguments.add_argument("--tiny", action="store_true", help="a tiny model, to try the command")
    return arguments.parse_args()


def main() -> None:
    """Measure and print."""
    arguments = options()
    rounds, tokens = (2, 16) if arguments.quick else (5, 48)
    shape = TINY if arguments.tiny else SMOLLM2_135M
    export = ExportConfig(
        precision="int8",
        max_kl=100.0,
        min_top_1_agreement=0.0,
        max_int8_loss_increase=1.0,
        max_model_len=512,
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        checkpoint = make_checkpoint(Path(folder) / "checkpoint", shape)
        engines = load_engines(export_version(checkpoint, Path(folder), export))
        bar = progress.add_task("measuring", total=rounds * len(SITUATIONS))
        pressure = PressureMeter()
        results = measure(engines, rounds, tokens, lambda: progress.advance(bar))
    publish("threads", results, arguments, pressure.read())


if __name__ == "__main__":
    main()
