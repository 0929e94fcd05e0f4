"""The folder of a dataset version: how it is written, read and checked.

`rows.jsonl` holds the rows, `dropped.jsonl` what was refused and why, `dataset.json` the summary.
The version is named after the Merkle root over the lines of `rows.jsonl`, so the same rows give the
same version and a changed byte is found.
"""

import hashlib
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from everloop.errors import DataError
from everloop.records import DatasetInfo, DatasetRow, merkle_root
from everloop.settings import Home
from training.corpus import Dropped

ROWS, DROPPED, INFO = "rows.jsonl", "dropped.jsonl", "dataset.json"


class DatasetWriter:
    """Write a dataset version under a temporary name; `finish` gives it its own.

    Used as a context manager; leaving it without `finish` leaves nothing behind.
    """

    def __init__(self, home: Home) -> None:
        self._root = home.data
        self._staging = self._root / f".building-{os.getpid()}-{uuid.uuid4().hex}"
        self._staging.mkdir(parents=True)
        self._rows = (self._staging / ROWS).open("wb")
        self._dropped = (self._staging / DROPPED).open("wb")
        self._hashes: list[str] = []
        self.counts: Counter[tuple[str, str]] = Counter()  # (split, kind) -> rows
        self.drops: Counter[tuple[str, str]] = Counter()  # (step, reason) -> documents or rows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._rows.close()
        self._dropped.close()
        shutil.rmtree(self._staging, ignore_errors=True)

    def add(self, row: DatasetRow) -> None:
        """Append a row."""
        self._rows.write(row.line.encode("utf-8") + b"\n")
        self._hashes.append(row.sha256)
        self.counts[row.split, row.kind] += 1

    def drop(self, dropped: Dropped) -> None:
        """Keep and count something that does not enter the dataset."""
        self._dropped.write(dropped.model_dump_json().encode("utf-8") + b"\n")
        self.drops[dropped.step, dropped.reason] += 1

    def finish(
        self,
        *,
        sources: Iterable[str],
        licences: Iterable[str],
        masked: dict[str, int] | None = None,
        python_version: str | None = None,
        parent: str | None = None,
    ) -> DatasetInfo:
        """Name the version after its content and put it into place.

        Returns:
            Its summary; that of the version in place if the same rows were written before.

        Raises:
            DataError: the version in place was changed.
        """
        root = merkle_root(self._hashes)
        info = DatasetInfo(
            id=f"ds-{root[:12]}",
            merkle_root=root,
            rows=len(self._hashes),
            counts=_nested(self.counts),
            dropped=_nested(self.drops),
            masked=masked or {},
            sources=tuple(sources),
            licences=tuple(sorted(set(licences))),
            python_version=python_version,
            parent=parent,
        )
        self._rows.close()
        self._dropped.close()
        text = info.model_dump_json(indent=1) + "\n"
        (self._staging / INFO).write_text(text, encoding="utf-8")
        target = self._root / info.id
        try:
            self._staging.rename(target)
        except OSError:
            if not target.is_dir():
                raise
            return verify_dataset(target)
        return info


def write_dataset(
    rows: Iterable[DatasetRow],
    home: Home,
    *,
    sources: Iterable[str],
    licences: Iterable[str],
    parent: str | None = None,
) -> DatasetInfo:
    """Write rows that were made elsewhere, such as from interactions, as a dataset version."""
    with DatasetWriter(home) as writer:
        for row in rows:
            writer.add(row)
        return writer.finish(sources=sources, licences=licences, parent=parent)


def read_info(folder: Path) -> DatasetInfo:
    """Read the summary of a dataset version without touching its rows.

    Raises:
        DataError: the folder is no dataset version.
    """
    path = folder / INFO
    try:
        return DatasetInfo.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"{folder} is no dataset version: {INFO} cannot be read ({error.strerror}). "
            "Build one with `everloop data build`."
        ) from error
    except ValidationError as error:
        raise DataError(f"{path} is damaged. Build the dataset again.") from error


def verify_dataset(folder: Path) -> DatasetInfo:
    """Check the rows of a dataset version against its Merkle root.

    Raises:
        DataError: the folder is no dataset version, or a byte of its rows was changed.
    """
    info = read_info(folder)
    try:
        with (folder / ROWS).open("rb") as file:
            hashes = [hashlib.sha256(line.removesuffix(b"\n")).hexdigest() for line in file]
    except OSError as error:
        raise DataError(f"{folder / ROWS} cannot be read ({error.strerror}).") from error
    root = merkle_root(hashes)
    if root != info.merkle_root or info.id != f"ds-{root[:12]}" or len(hashes) != info.rows:
        raise DataError(
            f"{folder / ROWS} was changed after dataset {info.id} was built: expected Merkle root "
            f"{info.merkle_root[:12]}, found {root[:12]}. Delete the folder and build it again."
        )
    return info


def read_rows(folder: Path) -> Iterator[DatasetRow]:
    """Check a dataset version, then read its rows one by one.

    Raises:
        DataError: as `verify_dataset`, at the call.
    """
    verify_dataset(folder)
    return _rows(folder / ROWS)


def read_dropped(folder: Path) -> Iterator[Dropped]:
    """Read what did not enter a dataset version, one by one."""
    with (folder / DROPPED).open("rb") as file:
        for line in file:
            yield Dropped.model_validate_json(line)


def _rows(path: Path) -> Iterator[DatasetRow]:
    with path.open("rb") as file:
        for line in file:
            yield DatasetRow.model_validate_json(line)


def _nested(counts: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for (outer, inner), count in sorted(counts.items()):
        nested.setdefault(outer, {})[inner] = count
    return nested
