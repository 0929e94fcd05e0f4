"""The look of the plots on pages for people, in plotly's JSON, which a page's script draws.

Building plots as figure objects of plotly takes a hundred times as long.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

# Told apart by people with any colour vision (after Okabe and Ito, 2008), and mid-tones, so that
# they are readable on white and on black.
BLUE, ORANGE, GREEN, PINK = "#3b82c4", "#d98a1f", "#1f9e77", "#c46a9b"
GREY, LINE = "#8a8f98", "rgba(138,143,152,.25)"
Plot = dict[str, Any]  # data and layout of a plotly figure


def make_plot(series: Sequence[dict[str, Any]], height: int, has_legend: bool = False) -> Plot:
    """Put series into the common layout, height in pixels."""
    axis = {"gridcolor": LINE, "zeroline": False, "automargin": True}
    layout = {
        "height": height,
        "margin": {"l": 10, "r": 50, "t": 30 if has_legend else 10, "b": 40},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": GREY},
        "showlegend": has_legend,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "bargap": 0.35,
        "xaxis": dict(axis),
        "yaxis": {**axis, "ticksuffix": " "},
    }
    return {"data": list(series), "layout": layout}


def as_script(plots: Mapping[str, Plot]) -> str:
    """Write plots for a page's script; a name that holds </script> does not end it."""
    return json.dumps(plots).replace("</", "<\\/")
