"""Pages for people: one HTML file that needs nothing else, since the plots' code is in it."""

from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from plotly.offline import get_plotlyjs

from training.plots import Plot, as_script

_TEMPLATES = Path(__file__).parent / "templates"


def render_page(template: str, plots: Mapping[str, Plot], **content: object) -> str:
    """Fill a template of `templates/`, all of which extend page.html.

    Args:
        template: its file name.
        plots: by name; each is drawn into the element `plot-<name>` where the page has one.
        content: what else the template names.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(
        heights={name: plot["layout"]["height"] for name, plot in plots.items()},
        plots=as_script(plots),
        plotly_js=get_plotlyjs(),
        **content,
    )
