"""Decode and prefill speed of the engine next to its peers, on the same weights.

    .venv/bin/python -m benchmarks.engine [--quick] [--json] [--spinning]
        [--precision fp32,int8-kv8] [--peers llama.cpp,genai,transformers] [--rounds 5]
        [--model FOLDER]

A random-weight Llama of SmolLM2-135M's shape, or the Llama of a Hugging Face folder. In every round
each side runs once, one after the other, with as many threads; the ratio is the median of the
rounds' ratios. The fastest peer of each number of rows has a line of its own: the one to judge by.
Peers that `make bench-peers` has not installed are left out.
"""

import argparse
import logging
import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks.everloop_side import EverloopSide
from benchmarks.machine_limits import MachineLimits
from benchmarks.precisions import COMPARED, PEERS, PRECISIONS, PREFILL, QUICK, Precision
from benchmarks.random_model import SMOLLM2_135M, TINY, ModelShape, make_checkpoint
from benchmarks.report import PressureMeter, Result, parser, publish
from benchmarks.side import Side
from serving.engine.config import EngineConfig

PROMPT_TOKENS = 128
PREFILL_TOKENS = 512
MAX_MODEL_LEN = 1024
ROWS = (1, 8, 16, 32)
OURS = "everloop"
_ANY_SLOWDOWN = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        tokens: of every row in every decode.
        rows: numbers of rows, PREFILL among them.
    """

    rounds: int
    tokens: int
    rows: tuple[int, ...]
    peers: tuple[str, ...]
    shape: ModelShape
    config: EngineConfig


@dataclass(slots=True)
class Speeds:
    """What was measured of one number of rows.

    Attributes:
        of: tokens per second in every round, by side.
        pressures: one per measurement.
    """

    of: dict[str, list[float]] = field(default_factory=dict)
    pressures: list[float] = field(default_factory=list)

    @property
    def pressure(self) -> float | None:
        """The mean, where the kernel tells."""
        return statistics.fmean(self.pressures) if self.pressures else None


def measure(
    sides: dict[str, Side], plan: Plan, limits: MachineLimits, advance: Callable[[], None]
) -> dict[int, Speeds]:
    """Run all rounds over one precision.

    Args:
        sides: loaded, by name, in the order in which they take turns.
        plan: what to measure.
        limits: measured again in every round.
        advance: called after each measurement.
    """
    random = np.random.default_rng(0)
    result = {rows: Speeds() for rows in plan.rows}
    for _ in range(plan.rounds):
        limits.measure(plan.config.threads)
        for rows, speeds in result.items():
            # New prompts every time, so that no cached prefix helps.
            size = (max(rows, 1), PREFILL_TOKENS if rows == PREFILL else PROMPT_TOKENS)
            prompts = random.integers(3, plan.shape.vocab_size, size).tolist()
            for name, side in sides.items():
                meter = PressureMeter()
                decoded = rows != PREFILL
                speed = side.decode(prompts, plan.tokens) if decoded else side.prefill(prompts[0])
                pressure = meter.read()
                speeds.of.setdefault(name, []).append(speed)
                speeds.pressures += [] if pressure is None else [pressure]
                advance()
    return result


def against_peers(
    name: str, precision: Precision, sides: dict[str, Side], measured: dict[int, Speeds]
) -> list[Result]:
    """Lines for every number of rows: one per peer and the fastest's; without peers, our own."""
    results = []
    for rows, speeds in measured.items():
        what = f"{name} {_phase(rows)}"
        ours = speeds.of[OURS]
        peers = [peer for peer in sides if peer != OURS]
        results += [
            Result.of_rounds(
                f"{what} / {sides[peer].label}",
                "tokens/s",
                ours,
                speeds.of[peer],
                precision.targets.get((peer, rows)),
                cpu_pressure=speeds.pressure,
            )
            for peer in peers
        ] or [Result.of_values(what, "tokens/s", ours, cpu_pressure=speeds.pressure)]
        if peers:
            fastest = max(peers, key=lambda peer: statistics.median(speeds.of[peer]))
            title = f"{what} / fastest peer ({sides[fastest].label})"
            theirs = speeds.of[fastest]
            pressure = speeds.pressure
            results.append(
                Result.of_rounds(title, "tokens/s", ours, theirs, 1.0, cpu_pressure=pressure)
            )
    return results


def _phase(rows: int) -> str:
    if rows == PREFILL:
        return "prefill"
    return f"decode, {rows} row{'s' if rows > 1 else ''}"


def against_machine(
    name: str,
    precision: Precision,
    measured: dict[int, Speeds],
    weight_bytes: int,
    linear_parameters: int,
    limits: MachineLimits,
) -> list[Result]:
    """Shares of what the machine can do: a stream reads every weight once a token."""
    results = []
    if 1 in measured:
        tokens_per_second = limits.bytes_per_second / weight_bytes
        shares = [speed / tokens_per_second for speed in measured[1].of[OURS]]
        results.append(
            Result.of_values(
                f"{name} single stream, share of the weights' bandwidth limit",
                "share",
                shares,
                at_least=precision.bandwidth_target,
                cpu_pressure=measured[1].pressure,
            )
        )
    if PREFILL in measured:
        tokens_per_second = limits.flops / (2 * linear_parameters)
        shares = [speed / tokens_per_second for speed in measured[PREFILL].of[OURS]]
        title = f"{name} prefill, share of the fp32 multiplication peak"
        pressure = measured[PREFILL].pressure
        results.append(Result.of_values(title, "share", shares, cpu_pressure=pressure))
    return results


def compare(
    name: str, checkpoint: Path, plan: Plan, limits: MachineLimits, progress: Progress
) -> tuple[list[Result], Callable[[MachineLimits], list[Result]]]:
    """Load one precision on all sides, measure it and let it go.

    Returns:
        The lines beside the peers, and what makes those beside the machine of its limits, which
        are not known before the last round of all.
    """
    precision = PRECISIONS[name]
    peers = precision.peers(plan.peers, checkpoint, plan.config.threads)
    with ExitStack() as stack:
        export = precision.export_config(MAX_MODEL_LEN)
        ours = stack.enter_context(EverloopSide(checkpoint, name, export, plan.config))
        loaded = {peer: stack.enter_context(side) for peer, side in peers.items()}
        sides: dict[str, Side] = {OURS: ours, **loaded}
        total = plan.rounds * len(plan.rows) * len(sides)
        bar = progress.add_task(f"{name}: {', '.join(sides)}", total=total)
        measured = measure(sides, plan, limits, lambda: progress.advance(bar))
    parameters = plan.shape.linear_parameters
    shares = partial(against_machine, name, precision, measured, ours.weight_bytes, parameters)
    return against_peers(name, precision, sides, measured), shares


def names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """An option's type: names out of `known`, separated by commas."""

    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(filter(None, text.split(",")))
        unknown = set(chosen) - set(known)
        if unknown:
            raise argparse.ArgumentTypeError(
                f"unknown: {', '.join(sorted(unknown))}; choose among {', '.join(known)}."
            )
        return chosen

    return parse


def engine_config(allow_spinning: bool) -> EngineConfig:
    """Settings for rows that start together, as a static batch does.

    No speculation: a random model repeats itself, which drafts guess. And prompts are read without
    regard for the rows that were read first, so that all begin within a few steps.
    """
    return EngineConfig(
        allow_spinning=allow_spinning, speculation="off", max_slowdown=_ANY_SLOWDOWN
    )


def read_options() -> argparse.Namespace:
    """What the command line asks for."""
    options = parser("The engine next to its peers.")
    options.add_argument("--precision", type=names(tuple(PRECISIONS)))
    options.add_argument("--peers", type=names(PEERS), default=PEERS)
    options.add_argument("--rounds", type=int, help="of every measurement")
    options.add_argument("--rows", type=lambda text: tuple(map(int, text.split(","))), default=ROWS)
    options.add_argument("--spinning", action="store_true", help="set engine.allow_spinning")
    model = options.add_mutually_exclusive_group()
    model.add_argument("--model", type=Path, help="Hugging Face folder; absent: random weights")
    model.add_argument("--tiny", action="store_true", help="a tiny model: try the command out")
    return options.parse_args()


def main() -> None:
    """Measure and print."""
    arguments = read_options()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    quick = arguments.quick
    shape = TINY if arguments.tiny else SMOLLM2_135M
    plan = Plan(
        rounds=arguments.rounds or (2 if quick else 5),
        tokens=16 if quick else 48,
        rows=(*((1, 8) if quick else arguments.rows), PREFILL),
        peers=arguments.peers,
        shape=ModelShape.read(arguments.model) if arguments.model else shape,
        config=engine_config(arguments.spinning),
    )
    pressure = PressureMeter()
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        checkpoint = arguments.model or make_checkpoint(Path(folder) / "checkpoint", plan.shape)
        limits = MachineLimits()
        compared = [
            compare(name, checkpoint, plan, limits, progress)
            for name in arguments.precision or (QUICK if quick else COMPARED)
        ]
    results = [line for lines, shares in compared for line in (*lines, *shares(limits))]
    settings = {
        "weights": arguments.model.resolve().name if arguments.model else "random",
        "threads": plan.config.threads,
        "engine.allow_spinning": arguments.spinning,
        "rounds": plan.rounds,
        "tokens per row": f"{PROMPT_TOKENS} + {plan.tokens}, prefill {PREFILL_TOKENS}",
        "memory read, GB/s": limits.bytes_per_second / 1e9,
        "fp32 multiplication peak, GFLOP/s": limits.flops / 1e9,
    }
    publish("engine", results, arguments, pressure.read(), settings)


if __name__ == "__main__":
    main()
