"""`everloop doctor`."""

from typing import Annotated

import typer

from everloop.cli_options import JsonOption, report


def doctor(
    again: Annotated[
        bool, typer.Option("--again", help="Measure anew, as after a busy first time.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """What this machine computes fast, and what is chosen because of it."""
    from everloop.doctor import examine
    from everloop.progress import progress_bar

    with progress_bar() as progress:
        found = examine(again=again, progress=progress)
    if as_json:
        report(found.model_dump(mode="json"), as_json)
        return
    report(found.lines, as_json)
    typer.echo()
    report(found.products, as_json)
    typer.echo()
    report([choice.model_dump() for choice in found.choices], as_json)
