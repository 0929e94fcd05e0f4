"""card.html: the data card as one page that needs nothing else, plots included."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, select_autoescape
from plotly.offline import get_plotlyjs

from training.data_card import DataCard

_TEMPLATES = Path(__file__).parent / "templates"
# A palette that is told apart by people with any colour vision (Okabe and Ito, 2008), mid-tones
# that are readable on white and on black.
_BLUE, _ORANGE, _GREEN, _PINK = "#3b82c4", "#d98a1f", "#1f9e77", "#c46a9b"
_GREY = "#8a8f98"
_KINDS = {"text": _BLUE, "chat": _ORANGE, "preference": _GREEN, "rated": _PINK}


def render_card(card: DataCard) -> str:
    """Draw the page."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures = {
        "funnel": _funnel(card),
        "lengths": _lengths(card),
        "languages": _bars(
            list(card.languages)[:12], list(card.languages.values())[:12], "rows", _BLUE
        ),
        "masked": _bars(
            list(card.dataset.masked), list(card.dataset.masked.values()), "finds masked", _PINK
        ),
    }
    return environment.get_template("data_card.html").render(
        card=card,
        info=card.dataset,
        figures={name: _html(figure) for name, figure in figures.items()},
        plotly_js=get_plotlyjs(),
    )


def _funnel(card: DataCard) -> go.Figure:
    steps = ["read in all", *card.left_after]
    left = [card.read, *card.left_after.values()]
    lost = [0, *(before - after for before, after in pairwise(left))]
    figure = go.Figure(
        [
            go.Bar(
                y=steps, x=left, orientation="h", marker_color=_BLUE, name="left",
                hovertemplate="%{y}: %{x:,} left<extra></extra>",
            ),
            go.Bar(
                y=steps, x=lost, orientation="h", marker_color=_ORANGE, name="dropped here",
                text=[f"-{count:,}" if count else "" for count in lost], textposition="outside",
                cliponaxis=False, hovertemplate="%{y}: %{x:,} dropped<extra></extra>",
            ),
        ]
    )  # fmt: skip
    figure.update_layout(barmode="stack", yaxis_autorange="reversed")
    return _styled(figure, 46 * len(steps) + 90, legend=True)


def _lengths(card: DataCard) -> go.Figure:
    figure = go.Figure()
    for kind, colour in _KINDS.items():
        bins = [one for one in card.lengths if one.kind == kind]
        if bins:
            figure.add_bar(
                x=[(one.low * one.high) ** 0.5 for one in bins],
                y=[one.rows for one in bins],
                width=[0.9 * (one.high - one.low) for one in bins],
                customdata=[f"{one.low:,} to {one.high:,} characters" for one in bins],
                name=kind,
                marker_color=colour,
                opacity=0.75,
                hovertemplate="%{customdata}: %{y:,} rows<extra></extra>",
            )
    figure.update_layout(barmode="overlay", xaxis_type="log", xaxis_title="characters")
    figure.update_xaxes(dtick=1)
    figure.update_yaxes(title="rows")
    return _styled(figure, 320, legend=True)


def _bars(names: Sequence[str], values: Sequence[int], unit: str, colour: str) -> go.Figure:
    figure = go.Figure(
        go.Bar(
            y=list(names), x=list(values), orientation="h", marker_color=colour,
            text=[f"{value:,}" for value in values], textposition="outside", cliponaxis=False,
            hovertemplate="%{y}: %{x:,} " + unit + "<extra></extra>",
        )
    )  # fmt: skip
    figure.update_layout(yaxis_autorange="reversed", xaxis_title=unit)
    return _styled(figure, 34 * max(len(names), 1) + 80)


def _styled(figure: go.Figure, height: int, legend: bool = False) -> go.Figure:
    figure.update_layout(
        template="none",
        height=height,
        autosize=True,
        margin={"l": 10, "r": 50, "t": 30 if legend else 10, "b": 40},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "inherit", "size": 13, "color": _GREY},
        showlegend=legend,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        bargap=0.35,
    )
    figure.update_xaxes(gridcolor="rgba(138,143,152,.25)", zeroline=False, automargin=True)
    figure.update_yaxes(gridcolor="rgba(138,143,152,.25)", zeroline=False, automargin=True)
    return figure


def _html(figure: go.Figure) -> str:
    html: str = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        config={"displayModeBar": False, "responsive": True},
    )
    return html
