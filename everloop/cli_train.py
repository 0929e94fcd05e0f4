"""`everloop train` and `everloop eval`."""

from enum import StrEnum
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
    report,
    vars_of,
)

RunArgument = Annotated[str, typer.Argument(help="Name of the run, or a checkpoint folder.")]


class Method(StrEnum):
    """What `everloop train` does."""

    BOTH = "both"
    PRETRAIN = "pretrain"
    SFT = "sft"
    KTO = "kto"
    DPO = "dpo"


def train(
    run: Annotated[str, typer.Argument(help="Name of the run.")] = "base",
    method: Annotated[
        Method, typer.Option(help="pretrain, sft, kto or dpo; both is pretrain, then sft.")
    ] = Method.BOTH,
    start: Annotated[
        str | None, typer.Option("--from", help="Run or Hugging Face folder to start from.")
    ] = None,
    compare: Annotated[
        str | None, typer.Option(help="Pre-train these kinds alike: rnn,transformer.")
    ] = None,
    home: HomeOption = None,
    config: ConfigOption = None,
    override: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train on the newest dataset: next token, answers, ratings or pairs; write a report."""
    from everloop.progress import progress_bar

    folder, settings = open_home(home), read_run(config, override)
    if compare is not None:
        from everloop.compare_runs import compare_kinds

        with progress_bar() as progress:
            kinds = compare_kinds(folder, settings, run, compare, progress)
        report([vars_of(kind) for kind in kinds], as_json)
        return
    from everloop.evaluate_runs import report_page
    from everloop.train_runs import describe_run, train_run
    from training.curves import read_curves, verdict
    from training.distributed import is_main_process

    if is_main_process():
        typer.echo(describe_run(folder, settings, method.value), err=True)
    with progress_bar() as progress:
        checkpoint = train_run(folder, settings, run, method.value, parent=start, progress=progress)
    if is_main_process():
        page = report_page(folder, checkpoint)
        said = verdict(read_curves(page.parent / "history.jsonl"))
        result = {"checkpoint": checkpoint.path, "report": page, "verdict": said}
        report(result | checkpoint.metrics, as_json)


def evaluate(
    run: RunArgument = "base",
    tasks: Annotated[
        Path | None, typer.Option(help="JSONL of prompts with answers, or with choices.")
    ] = None,
    parent: Annotated[
        str | None, typer.Option(help="Compare with this run or folder, not with the parent.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a run on held-out rows and your own tasks; write its report (HTML, JSON)."""
    from everloop.evaluate_runs import evaluate_run

    report(vars_of(evaluate_run(open_home(home), run, tasks=tasks, parent=parent)), as_json)
