"""The data card as a page for people (card.html)."""

from collections.abc import Sequence
from itertools import pairwise

from training.cleaning.reasons import explain
from training.data_card import DataCard, ordered_drops
from training.page import render_page
from training.plots import BLUE, GREEN, ORANGE, PINK, Plot, make_plot

_KINDS = {"text": BLUE, "chat": ORANGE, "preference": GREEN, "rated": PINK}


def render_card(card: DataCard) -> str:
    """Draw the page."""
    masked, languages = card.dataset.masked, card.languages
    plots = {
        "funnel": _funnel(card),
        "lengths": _lengths(card),
        "languages": _bars(list(languages)[:12], list(languages.values())[:12], "rows", BLUE),
        "masked": _bars(list(masked), list(masked.values()), "finds masked", PINK),
    }
    return render_page(
        "data_card.html",
        plots,
        card=card,
        info=card.dataset,
        drops=ordered_drops(card.dataset),
        explain=explain,
    )


def _funnel(card: DataCard) -> Plot:
    steps = ["read in all", *card.left_after]
    left = [card.read, *card.left_after.values()]
    lost = [0, *(before - after for before, after in pairwise(left))]
    bar = {"type": "bar", "orientation": "h", "y": steps}
    kept = {
        **bar, "x": left, "name": "left", "marker": {"color": BLUE},
        "hovertemplate": "%{y}: %{x:,} left<extra></extra>",
    }  # fmt: skip
    gone = {
        **bar, "x": lost, "name": "dropped here", "marker": {"color": ORANGE},
        "text": [f"-{count:,}" if count else "" for count in lost], "textposition": "outside",
        "cliponaxis": False, "hovertemplate": "%{y}: %{x:,} dropped<extra></extra>",
    }  # fmt: skip
    plot = make_plot([kept, gone], 46 * len(steps) + 90, has_legend=True)
    plot["layout"] |= {"barmode": "stack"}
    plot["layout"]["xaxis"] |= {"tickformat": ",d"}
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
    plot = make_plot(series, 320, has_legend=True)
    plot["layout"] |= {"barmode": "overlay"}
    plot["layout"]["xaxis"] |= {
        "type": "log",
        "dtick": "D2",
        "tickformat": ",",
        "title": {"text": "characters"},
    }
    plot["layout"]["yaxis"] |= {"tickformat": ",d", "title": {"text": "rows"}}
    return plot


def _bars(names: Sequence[str], values: Sequence[int], unit: str, colour: str) -> Plot:
    bars = {
        "type": "bar", "orientation": "h", "y": list(names), "x": list(values),
        "marker": {"color": colour}, "text": [f"{value:,}" for value in values],
        "textposition": "outside", "cliponaxis": False,
        "hovertemplate": "%{y}: %{x:,} " + unit + "<extra></extra>",
    }  # fmt: skip
    plot = make_plot([bars], 34 * max(len(names), 1) + 80)
    plot["layout"]["xaxis"] |= {"tickformat": ",d", "title": {"text": unit}}
    plot["layout"]["yaxis"] |= {"autorange": "reversed"}
    return plot
