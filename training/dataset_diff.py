"""What one dataset version has that another has not: by content, and by side of the split."""

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from everloop.records import DatasetRow
from training.dataset_folder import read_rows


@dataclass(frozen=True, slots=True)
class DatasetDiff:
    """Rows of two versions, compared by the hash of their content.

    Attributes:
        kept: rows that both have, on the same side.
        added, removed: kind of row -> rows that only the second, or only the first, has.
        moved: "train -> validation" and its like -> rows that changed side; a version that extends
            another moves none.
        added_rows, removed_rows: samples.
    """

    kept: int
    added: dict[str, int]
    removed: dict[str, int]
    moved: dict[str, int]
    added_rows: tuple[DatasetRow, ...]
    removed_rows: tuple[DatasetRow, ...]


def diff_datasets(before: Path, after: Path, samples: int = 3) -> DatasetDiff:
    """Compare two dataset versions; about 150 bytes of memory per row of each.

    Raises:
        DataError: one of them is no dataset version, or was changed.
    """
    old, new = _sides(before), _sides(after)
    both = old.keys() & new.keys()
    moved = Counter(f"{old[row]} -> {new[row]}" for row in both if old[row] != new[row])
    added, added_rows = _only(after, old, samples)
    removed, removed_rows = _only(before, new, samples)
    return DatasetDiff(
        kept=len(both) - moved.total(),
        added=added,
        removed=removed,
        moved=dict(moved),
        added_rows=added_rows,
        removed_rows=removed_rows,
    )


def _sides(folder: Path) -> dict[bytes, str]:
    return {bytes.fromhex(row.id): row.split for row in read_rows(folder)}


def _only(
    folder: Path, other: dict[bytes, str], samples: int
) -> tuple[dict[str, int], tuple[DatasetRow, ...]]:
    counts: Counter[str] = Counter()
    found: list[DatasetRow] = []
    for row in read_rows(folder):
        if bytes.fromhex(row.id) not in other:
            counts[row.kind] += 1
            found.extend(islice([row], max(0, samples - len(found))))
    return dict(counts), tuple(found)
