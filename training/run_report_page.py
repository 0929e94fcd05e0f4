"""The report of a run as a page for people (report.html), beside its data (report.json).

What is not known is said to be so.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.curves import Point
from training.page import render_page
from training.plots import BLUE, GREY, ORANGE, Plot, make_plot
from training.run_report import GroupQuality, RunReport

FEW_POINTS = 50  # that are marked on a curve
MOST_BARS = 20
JOULES_PER_WATT_HOUR = 3600


def write_report(report: RunReport, folder: Path) -> Path:
    """Write report.json and report.html.

    Returns:
        The page.
    """
    (folder / "report.json").write_text(report.model_dump_json(indent=1), encoding="utf-8")
    page = render_page("run_report.html", _plots(report), report=report, facts=_facts(report))
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _facts(report: RunReport) -> dict[str, str]:
    """The numbers that stand at the top of the page."""
    facts = _training_facts(report)
    preference = {
        "accuracy": "pairs won",
        "reward_accuracy": "pairs won by reward",
        "auc": "ratings, area under ROC",
        "reward_auc": "the same by reward",
    }
    facts |= {title: _interval(report.preference, name) for name, title in preference.items()}
    return {name: value for name, value in facts.items() if value is not None}


def _training_facts(report: RunReport) -> dict[str, str | None]:
    """What the run came to and what it cost; a model that was not trained here has none."""
    metrics, speed = report.metrics, report.tokens_per_second
    if "val_loss" not in metrics:
        return {}
    best = f"{metrics['val_loss']:.4f} (best, at step {metrics['best_step']:,.0f})"
    return {
        "validation loss": best,
        "bits per byte": f"{metrics['val_bpb']:.4f}" if "val_bpb" in metrics else None,
        "parameters": f"{metrics['parameters']:,.0f}",
        "steps": f"{metrics['steps']:,.0f}",
        "tokens": f"{metrics['tokens']:,.0f}",
        "time": _duration(metrics["seconds"]),
        "speed": f"{speed:,.0f} tokens/s" if speed else None,
        "processor time": _duration(metrics["cpu_seconds"]) if "cpu_seconds" in metrics else None,
        **_energy(metrics),
    }


def _energy(metrics: Mapping[str, float]) -> dict[str, str | None]:
    processor, gpu = metrics.get("energy_joules"), metrics.get("gpu_joules")
    measured = "not measurable on this machine"
    if processor is not None:
        measured = f"{_watt_hours(processor)}, other programs included"
    return {
        "energy of processor and memory": measured,
        "energy of the GPU": None if gpu is None else _watt_hours(gpu),
    }


def _watt_hours(joules: float) -> str:
    hours = joules / JOULES_PER_WATT_HOUR
    return f"{hours:,.0f} Wh" if hours >= 100 else f"{hours:.3g} Wh"


def _duration(seconds: float) -> str:
    """Seconds, with minutes or hours where a person would count in them."""
    if seconds < 100:
        return f"{seconds:,.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _interval(found: Mapping[str, float], name: str) -> str | None:
    if name not in found:
        return None
    return f"{found[name]:.3f} ({found[f'{name}_low']:.3f} to {found[f'{name}_high']:.3f})"


def _plots(report: RunReport) -> dict[str, Plot]:
    plots = {}
    if report.curves:
        plots["loss"] = _curves(
            report.curves,
            {"train_loss": ("training", BLUE), "val_loss": ("validation", ORANGE)},
            "loss, nats per token",
            report.metrics.get("best_step"),
        )
    if any(point.val_accuracy is not None for point in report.curves):
        series = {"val_accuracy": ("validation", ORANGE)}
        plots["accuracy"] = _curves(report.curves, series, "share of pairs won", None)
    if report.quality:
        plots["quality"] = _quality(report.quality)
    return plots


def _curves(
    points: Sequence[Point],
    series: Mapping[str, tuple[str, str]],
    title: str,
    kept: float | None,
) -> Plot:
    lines = []
    for key, (name, colour) in series.items():
        shown = [point for point in points if getattr(point, key) is not None]
        lines.append(
            {
                "type": "scatter", "name": name, "line": {"color": colour},
                "x": [point.step for point in shown],
                "y": [getattr(point, key) for point in shown],
                "mode": "lines+markers" if len(shown) < FEW_POINTS else "lines",
                "hovertemplate": "step %{x:,}: %{y:.4f}<extra>%{fullData.name}</extra>",
            }
        )  # fmt: skip
    plot = make_plot(lines, 340, has_legend=True)
    plot["layout"]["xaxis"] |= {"title": {"text": "step"}, "rangemode": "tozero"}
    plot["layout"]["yaxis"] |= {"title": {"text": title, "standoff": 12}}
    if kept is not None:
        line = {"color": GREY, "dash": "dot", "width": 1.5}
        # At the foot, since the legend stands above.
        mark = {"x": kept, "y": 0, "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
        plot["layout"] |= {
            "shapes": [
                {"type": "line", "x0": kept, "x1": kept, "y0": 0, "y1": 1, "yref": "paper"}
                | {"line": line}
            ],
            "annotations": [mark | {"text": "kept", "showarrow": False}],
        }
    return plot


def _quality(quality: Sequence[GroupQuality]) -> Plot:
    """Bars of the sources with most rows; the table has all."""
    groups = sorted(quality, key=lambda group: -group.rows)[:MOST_BARS]
    groups.sort(key=lambda group: group.name)
    bars: dict[str, Any] = {
        "type": "bar", "orientation": "h", "y": [group.name for group in groups],
        "hovertemplate": "%{y}: %{x:.4f} bits per byte<extra>%{fullData.name}</extra>",
    }  # fmt: skip
    now = {"x": [group.bits_per_byte for group in groups], "name": "this run"}
    series = [bars | now | {"marker": {"color": BLUE}}]
    has_parent = any(group.parent_bits_per_byte is not None for group in groups)
    if has_parent:
        before = {"x": [group.parent_bits_per_byte for group in groups], "name": "before"}
        series.insert(0, bars | before | {"marker": {"color": GREY}})
    plot = make_plot(series, (44 if has_parent else 30) * len(groups) + 100, has_parent)
    plot["layout"]["xaxis"] |= {"title": {"text": "bits per byte"}, "rangemode": "tozero"}
    plot["layout"]["yaxis"] |= {"autorange": "reversed"}
    return plot
