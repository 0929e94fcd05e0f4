"""The verbs of dataset versions and tokenizers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from everloop.cli_data_text import (
    rounded,
    shards_summary,
    shown_counts,
    shown_drops,
    shown_row,
    shown_rows,
    summary,
)
from everloop.cli_options import (
    ConfigOption,
    HomeOption,
    JsonOption,
    SetOption,
    open_home,
    open_store,
    read_run,
    report,
)

if TYPE_CHECKING:
    from everloop.settings import Home

data = typer.Typer(help="Build dataset versions, look at them, compare them.", no_args_is_help=True)
tokenizer = typer.Typer(help="Train tokenizers, and measure them.", no_args_is_help=True)

DatasetArgument = Annotated[
    str | None, typer.Argument(help="ds-… or its beginning; the newest corpus if absent.")
]
LimitOption = Annotated[int, typer.Option(min=1, help="How many to print.")]


@data.command("build")
def data_build(
    home: HomeOption = None,
    config: ConfigOption = None,
    override: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read, clean, mask, deduplicate and split a corpus into a dataset version."""
    from everloop.lifecycle import build_data
    from everloop.progress import progress_bar

    folder = open_home(home)
    with progress_bar() as progress:
        info = build_data(folder, read_run(config, override), progress)
    report(summary(info, folder.data / info.id, as_json), as_json)


@data.command("list")
def data_list(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """All dataset versions, oldest first; those of the feedback loop too."""
    folder = open_home(home)
    with open_store(folder) as store:
        found = store.datasets()
    report(
        [
            {
                "dataset": one.id,
                "kind": one.kind,
                "rows": one.rows,
                "dropped": sum(one.dropped.values()),
                "parent": one.parent,
                "created_at": one.created_at,
            }
            for one in found
        ],
        as_json,
    )


@data.command("show")
def data_show(
    dataset: DatasetArgument = None,
    dropped: Annotated[
        bool, typer.Option("--dropped", help="What did not enter it, with the reason.")
    ] = False,
    rows: Annotated[bool, typer.Option("--rows", help="Its rows.")] = False,
    only: Annotated[
        str | None, typer.Option(help="Step or reason of a drop; split or kind of a row.")
    ] = None,
    limit: LimitOption = 10,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """A dataset version: its summary, its rows, or what was dropped from it and why."""
    folder = _folder(open_home(home), dataset)
    if dropped:
        report(shown_drops(folder, only, limit, as_json), as_json)
    elif rows:
        report(shown_rows(folder, only, limit, as_json), as_json)
    else:
        from training.dataset_folder import read_info

        report(summary(read_info(folder), folder, as_json), as_json)


@data.command("diff")
def data_diff(
    before: Annotated[str, typer.Argument(help="ds-… or its beginning.")],
    after: DatasetArgument = None,
    limit: LimitOption = 3,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """What the second version has that the first has not, and the other way round, by content."""
    from training.dataset_diff import diff_datasets

    folder = open_home(home)
    one, two = _folder(folder, before), _folder(folder, after)
    found = diff_datasets(one, two, limit)
    report(
        {
            "before": one.name,
            "after": two.name,
            "kept": found.kept,
            "added": shown_counts(found.added, as_json),
            "removed": shown_counts(found.removed, as_json),
            "moved": shown_counts(found.moved, as_json),
            "added rows": [shown_row(row, as_json) for row in found.added_rows],
            "removed rows": [shown_row(row, as_json) for row in found.removed_rows],
        },
        as_json,
    )


@data.command("verify")
def data_verify(
    dataset: DatasetArgument = None, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Check every byte of a dataset version; exit code 2 and the file's name if one was changed."""
    from training.dataset_folder import verify_dataset

    info = verify_dataset(_folder(open_home(home), dataset))
    report({"dataset": info.id, "verified": True, "rows": info.rows, "files": len(info.files)},
           as_json)  # fmt: skip


@tokenizer.command("train")
def tokenizer_train(
    home: HomeOption = None,
    config: ConfigOption = None,
    override: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a byte-level BPE tokenizer on the newest dataset, and encode the dataset's texts."""
    from everloop.lifecycle import newest_dataset, prepare_tokens
    from everloop.progress import progress_bar

    folder = open_home(home)
    dataset = newest_dataset(folder)
    with progress_bar() as progress:
        shards = prepare_tokens(folder, read_run(config, override), dataset, progress)
    report(shards_summary(shards, folder.tokenizers / dataset.id, as_json), as_json)


@tokenizer.command("eval")
def tokenizer_eval(
    path: Annotated[
        Path | None, typer.Argument(help="tokenizer.json or its folder; that of the dataset.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="tokenizer.json or its folder to compare with.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="ds-…; the newest corpus.")] = None,
    split: Annotated[str, typer.Option(help="Rows to measure on.")] = "validation",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bytes per token by language and source, and texts that do not come back as they were."""
    from dataclasses import asdict

    from training.dataset_folder import rows_with_origin
    from training.tokenizer import open_tokenizer
    from training.tokenizer_eval import broken_round_trips, fit_by_group

    folder = open_home(home)
    rows = _folder(folder, dataset)
    own = open_tokenizer(path or folder.tokenizers / rows.name)
    other = open_tokenizer(reference) if reference else None
    pairs = ((row, origin) for row, origin in rows_with_origin(rows) if row.split == split)
    groups = [asdict(group) for group in fit_by_group(pairs, own, other)]
    broken = broken_round_trips(own)
    if as_json:
        report({"vocab_size": own.get_vocab_size(), "groups": groups, "broken": broken}, as_json)
        return
    report([rounded(group) for group in groups], as_json)
    verdict = ", ".join(map(repr, broken)) or "none: every hostile text comes back as it was"
    report({"vocabulary": f"{own.get_vocab_size():,}", "broken round trips": verdict}, as_json)


def _folder(home: "Home", dataset: str | None) -> Path:
    """The folder of a version by the beginning of its id; of the newest corpus if none is given."""
    from everloop.errors import NotFoundError

    if dataset is None:
        from everloop.lifecycle import newest_dataset

        return home.data / newest_dataset(home).id
    known = sorted(path.name for path in home.data.glob("ds-*"))
    found = [name for name in known if name.startswith(dataset)]
    if len(found) != 1:
        kind = "several datasets begin" if found else "no dataset begins"
        raise NotFoundError(
            f"{kind} with {dataset!r}; known: {', '.join(found or known) or 'none yet'}."
        )
    return home.data / found[0]
