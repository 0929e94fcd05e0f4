"""What every benchmark prints: a table for people, or with --json one document on stdout.

Also what every number needs beside it: machine, date, commit and how busy the machine was.
"""

import argparse
import dataclasses
import datetime
import json
import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from everloop.machine import memory, processor

_PRESSURE = Path("/proc/pressure/cpu")
_QUIET = 0.05  # CPU pressure up to which a timing can be trusted
_FILE_WIDTH = 140
_FINE_UNITS = ("nats/", "area under ROC")  # of which a hundredth is much
_HEADINGS = ("measurement", "value", "unit", "peer", "ratio", "range", "target", "ok", "pressure")
_WORDS = ("measurement", "unit", "input", "answer")  # columns of text


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One measured figure.

    Attributes:
        name: what was measured.
        value: the median over the rounds.
        unit: of value and peer.
        value_range: the least and the greatest value of a round.
        peer: the peer's median.
        ratio: median of the rounds' ratios, value over peer; rounds alternate, so that a busy
            moment hits both.
        ratio_range: the least and the greatest of those ratios.
        target: for the ratio if there is a peer, else for the value.
        ok: whether the target is reached.
        cpu_pressure: mean of a PressureMeter over the measurements of this figure.
    """

    name: str
    value: float
    unit: str
    value_range: tuple[float, float] | None = None
    peer: float | None = None
    ratio: float | None = None
    ratio_range: tuple[float, float] | None = None
    target: float | None = None
    ok: bool | None = None
    cpu_pressure: float | None = None

    @classmethod
    def of_rounds(
        cls,
        name: str,
        unit: str,
        values: Sequence[float],
        peers: Sequence[float],
        target: float | None = None,
        *,
        cpu_pressure: float | None = None,
    ) -> "Result":
        """Summarise rounds in which value and peer were measured one after the other."""
        ratios = [value / peer for value, peer in zip(values, peers, strict=True)]
        ratio = statistics.median(ratios)
        return cls(
            name=name,
            value=statistics.median(values),
            unit=unit,
            value_range=(min(values), max(values)),
            peer=statistics.median(peers),
            ratio=ratio,
            ratio_range=(min(ratios), max(ratios)),
            target=target,
            ok=None if target is None else ratio >= target,
            cpu_pressure=cpu_pressure,
        )

    @classmethod
    def of_values(
        cls,
        name: str,
        unit: str,
        values: Sequence[float],
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        cpu_pressure: float | None = None,
    ) -> "Result":
        """Summarise rounds that have no peer; the target is a floor or a ceiling."""
        value = statistics.median(values)
        ok = None if at_least is None else value >= at_least
        if at_most is not None:
            ok = value <= at_most
        return cls(
            name=name,
            value=value,
            unit=unit,
            value_range=(min(values), max(values)),
            target=at_least if at_most is None else at_most,
            ok=ok,
            cpu_pressure=cpu_pressure,
        )


class PressureMeter:
    """Share of the time since its creation in which some process waited for a processor."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._waited = _waited_seconds()

    def read(self) -> float | None:
        """The share, 0 to 1; None on a machine whose kernel does not tell."""
        waited = _waited_seconds()
        if waited is None or self._waited is None:
            return None
        return (waited - self._waited) / (time.monotonic() - self._started)


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has: --quick and --json."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: under five minutes")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON document on stdout")
    form.add_argument("--markdown", action="store_true", help="the table for docs/performance.md")
    return parser


def publish(
    benchmark: str,
    results: Sequence[Result],
    options: argparse.Namespace,
    cpu_pressure: float | None = None,
    settings: Mapping[str, object] | None = None,
) -> None:
    """Print the results to stdout in the form that was asked for.

    Args:
        benchmark: its name.
        results: a line each.
        options: what `parser` parsed.
        cpu_pressure: of the whole run.
        settings: what else a reader needs to know of the run: threads, rounds, limits.
    """
    document = _document(benchmark, options, cpu_pressure, settings)
    document["results"] = [dataclasses.asdict(result) for result in results]
    _print(document, _HEADINGS, list(map(_cells, results)), options)


def publish_table(
    benchmark: str,
    rows: Sequence[Mapping[str, object]],
    options: argparse.Namespace,
    cpu_pressure: float | None = None,
    settings: Mapping[str, object] | None = None,
) -> None:
    """Print rows of a benchmark that has columns of its own; see `publish`.

    Args:
        rows: values by column, the same columns in each; at least one.
    """
    document = _document(benchmark, options, cpu_pressure, settings)
    document["results"] = [dict(row) for row in rows]
    cells = [[_cell(value) for value in row.values()] for row in rows]
    _print(document, list(rows[0]), cells, options)


def _document(
    benchmark: str,
    options: argparse.Namespace,
    cpu_pressure: float | None,
    settings: Mapping[str, object] | None,
) -> dict[str, Any]:
    return {
        "benchmark": benchmark,
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "quick": options.quick,
        "cpu_pressure": cpu_pressure,
        "settings": dict(settings or {}),
    }


def _print(
    document: Mapping[str, Any],
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    options: argparse.Namespace,
) -> None:
    if options.json:
        print(json.dumps(document))
        return
    if getattr(options, "markdown", False):
        print(_markdown(document, headings, rows))
        return
    table = Table(title=f"{document['benchmark']} · {document['machine']}\n{document['date']}")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in _WORDS else "right")
    for row in rows:
        table.add_row(*row)
    # Wide enough for the names when stdout is a file, which has no width of its own.
    Console(width=None if os.isatty(1) else _FILE_WIDTH).print(table)
    for name, setting in document["settings"].items():
        print(f"{name}: {_text(setting)}")
    if (pressure := document["cpu_pressure"]) is not None:
        print(f"CPU pressure {pressure:.2f}{_verdict(pressure)}")


def _markdown(
    document: Mapping[str, Any], headings: Sequence[str], cells: Sequence[Sequence[str]]
) -> str:
    settings = "; ".join(f"{name}: {_text(value)}" for name, value in document["settings"].items())
    settings = f" {settings}." if settings else ""
    rows = [headings, ["---"] * len(headings), *cells]
    return "\n".join(
        [
            f"`{document['benchmark']}`, {document['machine']}, {document['date']}, commit "
            f"{document['commit']}, CPU pressure {_figure(document['cpu_pressure'])}.{settings}",
            "",
            *(f"| {' | '.join(row)} |" for row in rows),
        ]
    )


def machine() -> str:
    """Processor, cores and memory."""
    return f"{processor()}, {os.cpu_count()} cores, {memory()}"


def _verdict(cpu_pressure: float) -> str:
    if cpu_pressure <= _QUIET:
        return ": the machine was quiet."
    # Threads that spin at a barrier, as OpenMP's do, lose far more than threads that sleep.
    return f": above {_QUIET} others were running, and even the ratios are off. Run it again."


def _cells(result: Result) -> list[str]:
    low, high = (result.ratio_range if result.ratio else result.value_range) or (None, None)
    digits = 4 if result.unit.startswith(_FINE_UNITS) else 2
    return [
        result.name,
        _figure(result.value, digits),
        result.unit,
        _figure(result.peer, digits),
        _figure(result.ratio),
        f"{_figure(low)}-{_figure(high)}" if low is not None else "",
        _figure(result.target),
        "" if result.ok is None else ("ok" if result.ok else "missed"),
        _figure(result.cpu_pressure),
    ]


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "ok" if value else "missed"
    return _figure(value) if isinstance(value, float) else str(value)


def _text(setting: object) -> str:
    return _figure(setting) if isinstance(setting, float) else str(setting)


def _figure(value: float | None, digits: int = 2) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.{digits}f}"


def _waited_seconds() -> float | None:
    try:
        some = _PRESSURE.read_text(encoding="utf-8").splitlines()[0]
    except OSError:
        return None
    return int(some.rpartition("total=")[2]) / 1e6


def _commit() -> str | None:
    command = ["git", "rev-parse", "--short", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or None
