"""card.html: the data card as one page that needs nothing else, plots included.

The plots are written in plotly's JSON, which the page's script draws; building them as figure
objects takes a hundred times as long.
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape
from plotly.offline import get_plotlyjs

from training.data_card import DataCard

_TEMPLATES = Path(__file__).parent / "templates"
# Told apart by people with any colour vision (after Okabe and Ito, 2008), and mid-tones, so that
# they are readable on white and on black.
_BLUE, _ORANGE, _GREEN, _PINK = "#3b82c4", "#d98a1f", "#1f9e77", "#c46a9b"
_GREY, _LINE = "#8a8f98", "rgba(138,143,152,.25)"
_KINDS = {"text": _BLUE, "chat": _ORANGE, "preference": _GREEN, "rated": _PINK}
Plot = dict[str, Any]  # data and layout of a plotly figure


def render_card(card: DataCard) -> str:
    """Draw the page."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    masked, languages = card.dataset.masked, card.languages
    plots = {
        "funnel": _funnel(card),
        "lengths": _lengths(card),
        "languages": _bars(list(languages)[:12], list(languages.values())[:12], "rows", _BLUE),
        "masked": _bars(list(masked), list(masked.values()), "finds masked", _PINK),
    }
    return environment.get_template("data_card.html").render(
        card=card,
        info=card.dataset,
        heights={name: plot["layout"]["height"] for name, plot in plots.items()},
        # A name may hold </script>, which would end the script that it stands in.
        plots=json.dumps(plots).replace("</", "<\\/"),
        plotly_js=get_plotlyjs(),
    )


def _funnel(card: DataCard) -> Plot:
    steps = ["read in all", *card.left_after]
    left = [card.read, *card.left_after.values()]
    lost = [0, *(before - after for before, after in pairwise(left))]
    bar = {"type": "bar", "orientation": "h", "y": steps}
    kept = {
        **bar, "x": left, "name": "left", "marker": {"color": _BLUE},
        "hovertemplate": "%{y}: %{x:,} left<extra></extra>",
    }  # fmt: skip
    gone = {
        **bar, "x": lost, "name": "dropped here", "marker": {"color": _ORANGE},
        "text": [f"-{count:,}" if count else "" for count in lost], "textposition": "outside",
        "cliponaxis": False, "hovertemplate": "%{y}: %{x:,} dropped<extra></extra>",
    }  # fmt: skip
    plot = _plot([kept, gone], 46 * len(steps) + 90, has_legend=True)
    plot["layout"] |= {"barmode": "stack"}
    plot["layout"]["yaxis"] |= {"autorange": "reversed"}
    return plot


def _lengths(card: DataCard) -> Plot:
    series = []
    for kind, colour in _KINDS.items():
        bins = [one for one in card.lengths if one.kind == kind]
        if bins:
            series.append(
                {
                    "type": "bar", "name": kind, "marker": {"color": colour}, "opacity": 0.75,
                    "x": [(one.low * one.high) ** 0.5 for one in bins],
                    "y": [one.rows for one in bins],
                    "width": [0.9 * (one.high - one.low) for one in bins],
                    "customdata": [f"{one.low:,} to {one.high:,} characters" for one in bins],
                    "hovertemplate": "%{customdata}: %{y:,} rows<extra></extra>",
                }
            )  # fmt: skip
    plot = _plot(series, 320, has_legend=True)
    plot["layout"] |= {"barmode": "overlay"}
    plot["layout"]["xaxis"] |= {"type": "log", "dtick": 1, "title": {"text": "characters"}}
    plot["layout"]["yaxis"] |= {"title": {"text": "rows"}}
    return plot


def _bars(names: Sequence[str], values: Sequence[int], unit: str, colour: str) -> Plot:
    bars = {
        "type": "bar", "orientation": "h", "y": list(names), "x": list(values),
        "marker": {"color": colour}, "text": [f"{value:,}" for value in values],
        "textposition": "outside", "cliponaxis": False,
        "hovertemplate": "%{y}: %{x:,} " + unit + "<extra></extra>",
    }  # fmt: skip
    plot = _plot([bars], 34 * max(len(names), 1) + 80)
    plot["layout"]["xaxis"] |= {"title": {"text": unit}}
    plot["layout"]["yaxis"] |= {"autorange": "reversed"}
    return plot


def _plot(series: Sequence[dict[str, Any]], height: int, has_legend: bool = False) -> Plot:
    axis = {"gridcolor": _LINE, "zeroline": False, "automargin": True}
    layout = {
        "height": height,
        "margin": {"l": 10, "r": 50, "t": 30 if has_legend else 10, "b": 40},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": _GREY},
        "showlegend": has_legend,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "bargap": 0.35,
        "xaxis": dict(axis),
        "yaxis": {**axis, "ticksuffix": " "},
    }
    return {"data": list(series), "layout": layout}
