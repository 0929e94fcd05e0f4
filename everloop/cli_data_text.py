"""Dataset versions and token shards as the command line prints them, for programs or people."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everloop.records import DatasetInfo, DatasetRow
    from training.shards import ShardInfo


def summary(info: "DatasetInfo", folder: Path, as_json: bool) -> dict[str, Any]:
    """What a dataset version holds, what was dropped from it and why, and where its card lies."""
    page = folder / "card.html"
    card = {"card": str(page)} if page.is_file() else {}
    if as_json:
        return {**info.model_dump(exclude={"files", "checksum"}), **card}
    from training.cleaning.reasons import explain
    from training.data_card import ordered_drops

    drops = ordered_drops(info)
    read = info.rows + sum(count for _, _, count in drops)
    kept = f"{info.rows:,} of {read:,} documents ({info.rows / max(read, 1):.0%})"
    shown = {
        "dataset": info.id,
        "kept": kept,
        **{split: _numbers(kinds) for split, kinds in info.counts.items()},
        "dropped": [
            f"{count:>7,}  {step}: {_words(reason, explain(step, reason))}"
            for step, reason, count in drops
        ],
        "masked": _numbers(info.masked),
        "sources": info.sources,
        "licences": info.licences,
        "Python": info.python_version,
        "parent": info.parent,
        "Merkle root": info.merkle_root,
        **card,
    }
    return {name: value for name, value in shown.items() if value}


def shards_summary(shards: "ShardInfo", tokenizer: Path, as_json: bool) -> dict[str, Any]:
    """What the tokenizer made of a dataset's texts."""
    if as_json:
        return shards.model_dump()
    return {
        "dataset": shards.dataset_id,
        "tokenizer": str(tokenizer),
        **{
            split: f"{tokens:,} tokens in {shards.documents[split]:,} texts "
            f"({shards.text_bytes[split] / tokens:.2f} bytes per token)"
            for split, tokens in shards.tokens.items()
        },
    }


def shown_drops(folder: Path, only: str | None, limit: int, as_json: bool) -> list[dict[str, Any]]:
    """What was dropped from a version, of a step or for a reason."""
    from training.dataset_folder import read_dropped

    found: list[dict[str, Any]] = []
    for item in read_dropped(folder):
        if only is None or only in (item.step, item.reason):
            found.append(
                item.model_dump()
                if as_json
                else {
                    "step": item.step,
                    "reason": item.reason,
                    "source": item.source,
                    "detail": item.detail,
                    "text": _short(item.text, 80),
                }
            )
        if len(found) == limit:
            break
    return found


def shown_rows(folder: Path, only: str | None, limit: int, as_json: bool) -> list[dict[str, Any]]:
    """Rows of a version, of a split or kind."""
    from training.dataset_folder import read_rows

    found: list[dict[str, Any]] = []
    for row in read_rows(folder):
        if only is None or only in (row.split, row.kind):
            found.append(
                row.model_dump(exclude_none=True)
                if as_json
                else {
                    "id": row.id[:12],
                    "split": row.split,
                    "kind": row.kind,
                    "text": shown_row(row),
                }
            )
        if len(found) == limit:
            break
    return found


def shown_row(row: "DatasetRow", as_json: bool = False) -> Any:
    """One row; for people, the beginning of its text."""
    if as_json:
        return row.model_dump(exclude_none=True)
    turns = (*(row.messages or ()), *(row.chosen or ()))
    return _short(row.text or " / ".join(f"{turn.role}: {turn.content}" for turn in turns), 160)


def shown_counts(counts: dict[str, int], as_json: bool) -> Any:
    """Numbers by name."""
    return counts if as_json else _numbers(counts) or "none"


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    """What is known of a record, with three digits behind the point."""
    return {
        name: round(value, 3) if isinstance(value, float) else value
        for name, value in values.items()
        if value is not None
    }


def _numbers(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _words(reason: str, meaning: str) -> str:
    name = reason.replace("_", " ")
    return f"{name} ({meaning})" if meaning else name


def _short(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"
