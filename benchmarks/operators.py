"""Where the time of a decode step goes, by operator of the graph.

    .venv/bin/python -m benchmarks.operators [--quick] [--json] [--precision fp32] [--rows 1,8,32]

By ONNX Runtime's own profiler, which adds about two microseconds to each of some 400 nodes: what is
left of a step beside its operators is mostly that.
"""

import argparse
import json
import re
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine import PROMPT_TOKENS
from benchmarks.everloop_side import EverloopSide
from benchmarks.lone_side import lone_side, side_options, side_settings
from benchmarks.report import PressureMeter, Result, publish

Milliseconds = dict[str, list[float]]

_NODE = "_kernel_time"
_LEAST_SHARE = 0.01
_STEP, _REST = "whole step", "between operators"


def decode_with_profile(side: EverloopSide, rows: int, steps: int, folder: Path) -> list[Any]:
    """Decode with the profiler on; give its events.

    Args:
        side: loaded; its session is opened anew.
        rows: answers that grow together.
        steps: of every one of them.
        folder: for the profiler's files.

    Returns:
        Of the graph that ran the steps: a version with wide steps has two.
    """
    # The one place where the graph runs is private, and only benchmarks look at it.
    runner = side.engine._model_runner
    runner._options.enable_profiling = True
    runner._options.profile_file_prefix = str(folder / f"rows-{rows}")
    runner.reopen()
    random = np.random.default_rng(rows)
    vocab_size = side.engine.manifest.vocab_size
    prompts = random.integers(3, vocab_size, (rows, PROMPT_TOKENS)).tolist()
    side.decode(prompts, steps)
    profiles = [
        json.loads(Path(session.end_profiling()).read_text()) for session in runner.sessions
    ]
    return max(profiles, key=lambda events: len(_runs(events)))


def by_operator(events: list[Any], steps: int) -> Milliseconds:
    """Milliseconds of each of the last runs, by operator and what it does in the layers."""
    runs = _runs(events)[-steps - 1 : -1]
    found: Milliseconds = {_STEP: [run["dur"] / 1e3 for run in runs], _REST: []}
    nodes = list(_nodes(events))
    for number, run in enumerate(runs):
        end = run["ts"] + run["dur"]
        spent: Mapping[str, float] = _sum(nodes, run["ts"], end)
        for name, milliseconds in spent.items():
            found.setdefault(name, [0.0] * len(runs))[number] = milliseconds
        found[_REST].append(run["dur"] / 1e3 - sum(spent.values()))
    return found


def _runs(events: list[Any]) -> list[Any]:
    return [event for event in events if event.get("name") == "model_run"]


def _nodes(events: list[Any]) -> Iterator[tuple[int, float, str]]:
    """Start in microseconds, milliseconds and name of every operator's run."""
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_NODE):
            role = event["name"].removesuffix(_NODE).rpartition("/")[0]
            role = re.sub(r"(model\.)?layers\.\d+\.", "", role)
            yield event["ts"], event["dur"] / 1e3, f"{event['args']['op_name']}, {role}"


def _sum(nodes: list[tuple[int, float, str]], start: int, end: int) -> Mapping[str, float]:
    spent: defaultdict[str, float] = defaultdict(float)
    for moment, milliseconds, name in nodes:
        if start <= moment < end:
            spent[name] += milliseconds
    return spent


def results_of(rows: int, found: Milliseconds, pressure: float | None) -> list[Result]:
    """One line per operator that takes at least a hundredth of the step, the greatest first."""
    medians = {name: statistics.median(values) for name, values in found.items()}
    whole = medians[_STEP]
    names = sorted(medians, key=lambda name: medians[name], reverse=True)
    return [
        Result.of_values(
            f"{rows} row{'s' if rows > 1 else ''}: {name} ({medians[name] / whole:.0%})",
            "ms",
            found[name],
            cpu_pressure=pressure,
        )
        for name in names
        if medians[name] >= _LEAST_SHARE * whole
    ]


def read_options() -> argparse.Namespace:
    """What the command line asks for."""
    options = side_options("Where the time of a decode step goes, by operator.")
    options.add_argument("--rows", default="1,8,32", help="separated by commas")
    return options.parse_args()


def main() -> None:
    """Measure and print."""
    arguments = read_options()
    steps = 16 if arguments.quick else 48
    results: list[Result] = []
    whole = PressureMeter()
    with tempfile.TemporaryDirectory() as folder, lone_side(arguments) as side:
        for rows in map(int, arguments.rows.split(",")):
            pressure = PressureMeter()
            events = decode_with_profile(side, rows, steps, Path(folder))
            results += results_of(rows, by_operator(events, steps), pressure.read())
    settings = side_settings(arguments) | {"steps": steps}
    publish("operators", results, arguments, whole.read(), settings)


if __name__ == "__main__":
    main()
