"""What the commands share: options, the home folder, the store, how a result is printed."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from everloop.settings import Home, RunFile, Settings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from everloop.manifest import Divergence, PrecisionReport
    from everloop.registry import ModelVersion
    from feedback.store.store import Store

HomeOption = Annotated[
    Path | None, typer.Option(help="Folder that holds everything [EVERLOOP_HOME, .everloop].")
]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML of this run.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override: table.key=value (repeatable).")
]
_LOOP_TABLES = {"trigger", "feedback", "gate", "loop"}
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def open_home(home: Path | None) -> Home:
    """The home folder of this command: the option, or the environment, or .everloop."""
    settings = Settings()
    return Home(home or settings.home, settings.database_url).create()


def read_run(config: Path | None, overrides: list[str] | None) -> RunFile:
    """The run's TOML with the overrides of the command line.

    Raises:
        ConfigError: it cannot be read, or its tables about the loop contradict one another.
    """
    run = RunFile.load(config, tuple(overrides or ()))
    if run.values.keys() & _LOOP_TABLES:
        from feedback.loop_config import check_loop

        check_loop(run)
    return run


@contextmanager
def open_store(home: Home) -> "Iterator[Store]":
    """The store of this home, closed afterwards."""
    from feedback.store.store import open_store as open_database

    store = open_database(home.database_url)
    try:
        yield store
    finally:
        store.close()


def vars_of(record: "DataclassInstance") -> dict[str, Any]:
    """A record's fields by name, for a report."""
    return dataclasses.asdict(record)


def report_version(version: "ModelVersion", as_json: bool) -> None:
    """Print what an export made and measured; its precisions as a table."""
    manifest = version.manifest
    result = {
        "model_version": version.tag,
        "family": manifest.family,
        "parameters": manifest.parameters,
        "max_model_len": manifest.max_model_len,
        "weights": manifest.weight_precision,
        "block_size": manifest.block_size,
        "cache": manifest.cache_precision,
        "sampling": manifest.sampling.model_dump() if as_json else str(manifest.sampling),
        "licence": manifest.licence,
        **manifest.export.model_dump(exclude=set() if as_json else {"precisions"}),
    }
    report(result, as_json)
    if not as_json:
        print_precisions(manifest.export.precisions)


def print_precisions(precisions: "Sequence[PrecisionReport]") -> None:
    """Print what was measured of each precision as a table, and why some are refused."""
    if not precisions:
        return
    typer.echo()
    _print_table([_precision_row(one) for one in precisions])
    for refusal in filter(None, (one.refusal for one in precisions)):
        typer.echo(f"refused: {refusal}")


def _precision_row(measured: "PrecisionReport") -> dict[str, str]:
    weights = f"{measured.weights} b{measured.block_size}" if measured.block_size else "fp32"
    speeds = {
        f"tokens/s at {rows}": f"{speed:,.0f}" for rows, speed in measured.tokens_per_second.items()
    }
    if measured.prefill_tokens_per_second is not None:
        speeds["prefill"] = f"{measured.prefill_tokens_per_second:,.0f}"
    return {
        "weights": weights,
        "cache": measured.cache,
        "loss": f"{measured.val_loss:.4f}{_margin(measured.val_loss_interval, '.4f')}",
        "by weights": f"{measured.weight_loss_increase:+.2%}",
        "by cache": f"{measured.cache_loss_increase:+.2%}",
        **_distances(measured.divergence),
        "MiB": f"{measured.weights_bytes / 2**20:,.1f}",
        "bytes/token": f"{measured.cache_bytes_per_token:,}",
        "refused": "yes" if measured.refusal else "",
        **speeds,
    }


def _distances(found: "Divergence | None") -> dict[str, str]:
    if found is None:
        return dict.fromkeys(("mean KL", "p99 KL", "top-1", "same answers", "tokens"), "")
    equal = found.equal_answers
    return {
        "mean KL": f"{found.mean_kl:.4f}{_margin(found.mean_kl_interval, '.4f')}",
        "p99 KL": f"{found.p99_kl:.4f}",
        "top-1": f"{found.top_1_agreement:.1%}{_margin(found.top_1_interval, '.1%')}",
        "same answers": "" if equal is None else f"{equal:.0%}",
        "tokens": f"{found.tokens:,}",
    }


def _margin(interval: tuple[float, float] | None, form: str) -> str:
    """Half of an interval around a mean, of 95 %."""
    return "" if interval is None else f" ±{(interval[1] - interval[0]) / 2:{form}}"


def report(result: Mapping[str, Any] | Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print a command's result: one JSON document for programs, aligned lines for people."""
    if as_json:
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False, default=str))
    elif isinstance(result, Mapping):
        _print_record(result)
    else:
        _print_table(result)


def _print_record(record: Mapping[str, Any]) -> None:
    width = max((len(key) for key in record), default=0)
    for key, value in record.items():
        parts = value if isinstance(value, list | tuple) and value else [value]
        if isinstance(value, Mapping) and value:
            parts = [f"{name}: {_text(str(name), part)}" for name, part in value.items()]
        for index, part in enumerate(parts):
            typer.echo(f"{key if index == 0 else '':<{width}}  {_text(key, part)}")


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [columns] if rows else []
    cells += [[_text(column, row.get(column)) for column in columns] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    for line in cells:
        padded = (f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(padded).rstrip())


def _text(key: str, value: object) -> str:
    """A value for people: times of records are Unix seconds, and nothing is an empty cell."""
    if key == "created_at" and isinstance(value, float):
        return datetime.fromtimestamp(value).astimezone().isoformat(" ", "seconds")
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        named = ((str(name), _text(str(name), part)) for name, part in value.items())
        return ", ".join(f"{name} {part}" for name, part in named if part)
    if isinstance(value, list | tuple):
        return " ".join(_text(key, part) for part in value)
    return str(value)


def _number(value: float) -> str:
    """Four digits that count, or all of those before the point."""
    if value.is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:#.4g}" if abs(value) >= 0.001 else f"{value:.4g}"
