"""`everloop import`: a model from elsewhere becomes a model version."""

import json
from pathlib import Path
from typing import Annotated

import typer

from everloop.cli_options import (
    ConfigOption,
    HomeOption,
    JsonOption,
    SetOption,
    open_home,
    read_run,
    report_version,
)


def import_folder(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A folder with config.json, *.safetensors and tokenizer.json, or a GGUF file."
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Of the model [that of the folder or GGUF file].")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, int8, int4 or auto [export.precision].")
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(help="Text to compare the precisions on: file, folder, pattern or URL."),
    ] = None,
    home: HomeOption = None,
    config: ConfigOption = None,
    override: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn a local Hugging Face folder or GGUF file into a verified model version and save it.

    Prompt and answer may have as many tokens as the model takes, at most 4096, or what
    --set export.max_model_len says.
    """
    from everloop.importing import import_checkpoint
    from everloop.progress import progress_bar

    given = {"name": name, "precision": precision}
    options = [f"export.{key}={json.dumps(value)}" for key, value in given.items() if value]
    run = read_run(config, [*(override or []), *options])
    with progress_bar() as progress:
        version = import_checkpoint(open_home(home), run, folder, text=text, progress=progress)
    report_version(version, as_json)
