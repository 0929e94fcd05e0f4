"""The verbs that ask the store: model versions and their history, feedback."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from everloop.cli_options import (
    ConfigOption,
    HomeOption,
    JsonOption,
    SetOption,
    open_home,
    open_store,
    print_precisions,
    read_run,
    report,
    vars_of,
)

models = typer.Typer(
    help="Model versions: list, promote, roll back, export, trace an answer to its sources.",
    no_args_is_help=True,
)
feedback = typer.Typer(help="What people said about the answers.", no_args_is_help=True)

TagArgument = Annotated[str, typer.Argument(help="name:version, as `models list` prints it.")]
ReasonOption = Annotated[str, typer.Option(help="Why; kept with the decision.")]


@models.command("list")
def models_list(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """All model versions, oldest first; the champion is marked."""
    from everloop.registry import Registry

    folder = open_home(home)
    with open_store(folder) as store:
        champion = store.champion()
    rows = [
        {
            "model_version": version.tag,
            "champion": "*" if champion and champion.model_version == version.tag else "",
            "parent": version.manifest.lineage.parent or "",
            "parameters": version.manifest.parameters,
            "precision": version.manifest.weight_precision,
            "val_loss": round(version.manifest.export.val_loss, 4),
            "val_bpb": round(version.manifest.export.val_bpb, 4),
            "measured on": version.manifest.export.validation_text or "",
        }
        for version in Registry(folder).list()
    ]
    report(rows, as_json)


@models.command("show")
def models_show(tag: TagArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """The manifest of one model version, the precisions that were measured for it, and what it
    promises on this machine: it is loaded.
    """
    from everloop.batch_invariance import batch_invariance
    from everloop.registry import Registry

    version = Registry(open_home(home)).get(tag)
    hidden = None if as_json else {"export": {"precisions"}}
    measured = {"batch_invariant": batch_invariance(version.path)}
    report(version.manifest.model_dump(mode="json", exclude=hidden) | measured, as_json)
    if not as_json:
        print_precisions(version.manifest.export.precisions)


@models.command("history")
def models_history(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Every change of the champion and every round that the gate refused, newest first."""
    with open_store(open_home(home)) as store:
        rows = [vars_of(deployment) for deployment in store.deployments()]
        refused = [one for one in store.decisions(kind="gate") if one.verdict != "promote"]
    rows += [
        {
            "id": None,
            "created_at": decision.created_at,
            "model_version": decision.candidate,
            "previous": decision.champion,
            "action": "round",
            "reason": "; ".join(decision.reasons),
            "decision_id": decision.id,
            "status": decision.verdict,
            "detail": None,
        }
        for decision in refused
    ]
    rows.sort(key=lambda row: row["created_at"], reverse=True)
    shown = ("created_at", "action", "model_version", "status", "reason", "detail")
    report(rows if as_json else [{name: row[name] for name in shown} for row in rows], as_json)


@models.command("promote")
def models_promote(
    tag: TagArgument, reason: ReasonOption, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Make a version the champion by hand; a running server swaps to it."""
    from everloop.registry import Registry
    from feedback.rollout import promote

    folder = open_home(home)
    version = Registry(folder).get(tag)
    with open_store(folder) as store:
        store.record_model_version(version)
        report(vars_of(promote(store, version.tag, reason)), as_json)


@models.command("rollback")
def models_rollback(
    reason: ReasonOption, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Return to the champion before this one; a running server swaps to it."""
    from everloop.registry import Registry
    from feedback.rollout import predecessor, rollback

    folder = open_home(home)
    with open_store(folder) as store:
        Registry(folder).get(predecessor(store))  # refused here when it was pruned
        report(vars_of(rollback(store, reason)), as_json)


@models.command("export")
def models_export(
    tag: TagArgument,
    target: Annotated[Path, typer.Argument(help="The file (gguf) or folder (hf) to write.")],
    form: Annotated[
        Literal["gguf", "hf"],
        typer.Option("--format", help="gguf for llama.cpp and its like, hf for transformers."),
    ] = "gguf",
    dtype: Annotated[
        Literal["f32", "f16", "q8_0", "q4_0"],
        typer.Option(help="Of the matrices; hf takes f32 and f16."),
    ] = "f32",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the weights that a version was exported from, for other programs."""
    from everloop.exporting import export_model
    from everloop.progress import progress_bar

    with progress_bar() as progress:
        written = export_model(
            open_home(home), tag, target, form=form, dtype=dtype, progress=progress
        )
    files = [path for path in (written, *written.rglob("*")) if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    report({"written": written, "format": form, "dtype": dtype, "bytes": size}, as_json)


@models.command("package")
def models_package(
    tag: Annotated[
        str | None, typer.Argument(help="name:version; the champion of the home if absent.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build a Bento of the service, from a checkout, with one model version in it."""
    from everloop.packaging import build_bento, version_to_package

    folder = open_home(home)
    with open_store(folder) as store:
        version = version_to_package(folder, store, tag)
    typer.echo(f"packaging {version.tag} of {folder.root.resolve()}", err=True)
    bento = build_bento(folder, version)
    report({"bento": bento, "model_version": version.tag, "home": folder.root.resolve()}, as_json)


@models.command("prune")
def models_prune(
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove what would go; without it, only say so.")
    ] = False,
    home: HomeOption = None,
    config: ConfigOption = None,
    override: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """List old versions, checkpoints and runs that [retention] lets go; --delete removes them."""
    from everloop.retention import RetentionConfig, prune, survey

    folder = open_home(home)
    settings = read_run(config, override).table("retention", RetentionConfig)
    with open_store(folder) as store:
        found = survey(folder, settings, store)
        removed = {(one.kind, one.name) for one in prune(folder, settings, store)} if delete else {}
    going = "removed" if delete else "would go"
    rows = [
        {
            "kind": one.kind,
            "name": one.name,
            "bytes": one.size_bytes if as_json else f"{one.size_bytes:,}",
            "action": "stays" if one.because else going,
            "because": one.because or "",
        }
        for one in found
        if not delete or one.because or (one.kind, one.name) in removed
    ]
    report(rows, as_json)


@models.command("trace")
def models_trace(
    completion: Annotated[str, typer.Argument(help="Id of a completion, as the client saw it.")],
    sample: Annotated[int, typer.Option(help="Rows to show of each dataset.")] = 3,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Walk from an answer to the model, the dataset rows and the sources behind it."""
    with open_store(open_home(home)) as store:
        report(store.trace(completion, sample=sample).summary(), as_json)


@feedback.command("stats")
def feedback_stats(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """How many ratings there are, by kind."""
    with open_store(open_home(home)) as store:
        report(vars_of(store.feedback_counts()), as_json)
