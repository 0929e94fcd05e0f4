"""The report of a run, as data (report.json) and as a page for people (report.html).

The page needs nothing but itself: the plots' code is in it. What is not known is said to be so.
"""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import torch
from jinja2 import Environment, FileSystemLoader
from plotly import graph_objects as go
from plotly.offline import get_plotlyjs
from pydantic import Field

from everloop.records import Record
from training.checkpoint import Checkpoint
from training.curves import Point, read_curves, verdict
from training.tasks import TaskResult

TEMPLATE = "run_report.html"


class Sample(Record):
    """What the model wrote to a prompt, and what its parent had written."""

    prompt: str
    text: str
    expected: str | None = None
    parent_text: str | None = None


class GroupQuality(Record):
    """The quality on one source of held-out rows, before and after."""

    name: str
    rows: int
    tokens: int
    loss: float
    perplexity: float
    bits_per_byte: float
    parent_loss: float | None = None
    parent_bits_per_byte: float | None = None


class RunReport(Record):
    """Everything that is known about a finished run."""

    run: str
    method: str
    verdict: str
    metrics: dict[str, float]
    settings: dict[str, str]
    datasets: tuple[dict[str, str | int], ...]
    packages: dict[str, str]
    hardware: dict[str, str]
    curves: tuple[Point, ...]
    samples: tuple[Sample, ...] = ()
    quality: tuple[GroupQuality, ...] = ()
    tasks: tuple[TaskResult, ...] = ()
    preference: Mapping[str, float] = Field(default_factory=dict)
    parent: str | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """Training speed over the whole run, validation and saving included."""
        seconds = self.metrics.get("seconds")
        return self.metrics["tokens"] / seconds if seconds else None


def make_report(
    run: Path,
    checkpoint: Checkpoint,
    *,
    samples: Sequence[Sample] = (),
    quality: Sequence[GroupQuality] = (),
    tasks: Sequence[TaskResult] = (),
    preference: Mapping[str, float] | None = None,
    parent: str | None = None,
) -> RunReport:
    """Gather what a run's folder and its checkpoint tell.

    Args:
        run: the run's folder.
        checkpoint: its result.
        samples: what the model wrote.
        quality: on held-out rows, by source.
        tasks: results of a user's task file.
        preference: accuracy and area under the ROC with their bounds.
        parent: name of what the run started from.
    """
    curves = read_curves(run / "history.jsonl")
    record = checkpoint.record
    return RunReport(
        run=run.name,
        method=record.config.get("kind", "unknown"),
        verdict=verdict(curves),
        metrics=record.metrics,
        settings=record.config,
        datasets=tuple(
            {"id": item.id, "rows": item.rows, "use": item.use} for item in record.datasets
        ),
        packages=record.packages,
        hardware=hardware(record.config),
        curves=tuple(curves),
        samples=tuple(samples),
        quality=tuple(quality),
        tasks=tuple(tasks),
        preference=dict(preference or {}),
        parent=parent,
    )


def write_report(report: RunReport, folder: Path) -> Path:
    """Write report.json and report.html.

    Returns:
        The page.
    """
    (folder / "report.json").write_text(report.model_dump_json(indent=1), encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True
    )
    page = environment.get_template(TEMPLATE).render(
        report=report,
        figures=[
            figure.to_html(full_html=False, include_plotlyjs=False) for figure in _figures(report)
        ],
        plotly=get_plotlyjs(),
        facts=_facts(report),
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def hardware(settings: Mapping[str, str]) -> dict[str, str]:
    """The machine that this process runs on."""
    threads = next(
        (value for key, value in settings.items() if key.endswith(".num_threads")), "None"
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads of the run": "all cores" if threads == "None" else threads,
        "memory": f"{psutil.virtual_memory().total / (1 << 30):.0f} GiB",
        "GPU": gpu,
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _facts(report: RunReport) -> dict[str, str]:
    """The numbers that stand at the top of the page."""
    metrics, speed = report.metrics, report.tokens_per_second
    shown = {
        "validation loss": f"{metrics['val_loss']:.4f} (best, at step {metrics['best_step']:.0f})",
        "bits per byte": f"{metrics['val_bpb']:.4f}" if "val_bpb" in metrics else None,
        "steps": f"{metrics['steps']:,.0f}",
        "tokens": f"{metrics['tokens']:,.0f}",
        "time": f"{metrics['seconds']:,.0f} s",
        "speed": f"{speed:,.0f} tokens/s" if speed else None,
        "processor time": f"{metrics['cpu_seconds']:,.0f} s" if "cpu_seconds" in metrics else None,
        "started from": report.parent,
        "pairs won": _interval(report.preference, "accuracy"),
        "pairs won by reward": _interval(report.preference, "reward_accuracy"),
        "ratings, area under ROC": _interval(report.preference, "auc"),
        "the same by reward": _interval(report.preference, "reward_auc"),
    }
    return {name: value for name, value in shown.items() if value is not None}


def _interval(found: Mapping[str, float], name: str) -> str | None:
    if name not in found:
        return None
    return f"{found[name]:.3f} ({found[f'{name}_low']:.3f} to {found[f'{name}_high']:.3f})"


def _figures(report: RunReport) -> list[go.Figure]:
    names = {"train_loss": "training", "val_loss": "validation"}
    losses = go.Figure()
    for key, name in names.items():
        points = [point for point in report.curves if getattr(point, key) is not None]
        losses.add_scatter(
            x=[point.step for point in points],
            y=[getattr(point, key) for point in points],
            name=name,
            mode="lines+markers" if len(points) < 50 else "lines",
        )
    best = report.metrics.get("best_step")
    if best is not None:
        losses.add_vline(x=best, line_dash="dot", annotation_text="kept")
    losses.update_layout(title="Loss", xaxis_title="step", yaxis_title="loss")
    figures = [losses]
    if report.quality:
        figures.append(_quality_figure(report.quality))
    for figure in figures:
        figure.update_layout(template="plotly_white", height=380, margin={"t": 50, "r": 20})
    return figures


def _quality_figure(quality: Sequence[GroupQuality]) -> go.Figure:
    figure = go.Figure()
    names = [group.name for group in quality]
    if any(group.parent_bits_per_byte is not None for group in quality):
        figure.add_bar(x=names, y=[group.parent_bits_per_byte for group in quality], name="parent")
    figure.add_bar(x=names, y=[group.bits_per_byte for group in quality], name="this run")
    figure.update_layout(
        title="Held-out rows by source", yaxis_title="bits per byte", barmode="group"
    )
    return figure
