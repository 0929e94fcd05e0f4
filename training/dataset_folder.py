"""The folder of a dataset version: how it is written, read and checked.

`rows.jsonl` holds the rows, `documents.jsonl` where each comes from, `dropped.jsonl` what was
refused and why, `dataset.json` the summary. The version is named after the Merkle root over the
lines of `rows.jsonl`, so the same rows give the same version; the summary holds the hashes of all
files and of itself, so a changed byte is found. Nothing is held in memory, however many rows.
"""

import hashlib
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from everloop.errors import DataError, EverloopError
from everloop.manifest import sha256_file
from everloop.merkle import MerkleTree
from everloop.records import DatasetInfo, DatasetRow
from everloop.settings import Home
from training.corpus import Dropped, Origin

ROWS, DROPPED, ORIGINS, INFO = "rows.jsonl", "dropped.jsonl", "documents.jsonl", "dataset.json"


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
        self._origins = (self._staging / ORIGINS).open("wb")
        self._tree = MerkleTree()
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
        try:
            self._close()
        except OSError:
            if error is None:
                raise
        finally:
            self._tree.__exit__(kind, error, traceback)
            shutil.rmtree(self._staging, ignore_errors=True)
        if isinstance(error, OSError):
            raise EverloopError(
                f"the dataset cannot be written to {self._root} ({error.strerror or error}). "
                "Earlier versions are unchanged."
            ) from error

    def add(self, row: DatasetRow, origin: Origin | None = None) -> None:
        """Append a row, and where it comes from where that is more than its `sources`."""
        line = row.line.encode("utf-8")
        self._rows.write(line + b"\n")
        self._tree.add(hashlib.sha256(line).digest())
        self.counts[row.split, row.kind] += 1
        if origin is not None:
            self._origins.write(origin.model_dump_json().encode("utf-8") + b"\n")

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
        describe: Callable[[DatasetInfo, Path], None] | None = None,
    ) -> DatasetInfo:
        """Name the version after its content and put it into place.

        Args:
            describe: is given the summary and the folder before it is closed, to add files to it.

        Returns:
            Its summary; that of the version in place if the same rows were written before.

        Raises:
            DataError: the version in place was changed.
        """
        root = self._tree.root()
        self._close()
        info = DatasetInfo(
            id=f"ds-{root[:12]}",
            merkle_root=root,
            rows=self._tree.count,
            counts=_nested(self.counts),
            dropped=_nested(self.drops),
            masked=masked or {},
            sources=tuple(sources),
            licences=tuple(sorted(set(licences))),
            python_version=python_version,
            parent=parent,
        )
        if describe is not None:
            describe(info, self._staging)
        return _put_into_place(self._staging, self._root / info.id, info)

    def _close(self) -> None:
        for file in (self._rows, self._dropped, self._origins):
            file.close()


def _put_into_place(staging: Path, target: Path, info: DatasetInfo) -> DatasetInfo:
    """Describe the files of a finished folder and give it its name, unless it is there."""
    if not (staging / ORIGINS).stat().st_size:
        (staging / ORIGINS).unlink()
    files = {path.name: sha256_file(path) for path in sorted(staging.iterdir())}
    info = info.model_copy(update={"files": files})
    info = info.model_copy(update={"checksum": _checksum(info)})
    (staging / INFO).write_text(info.model_dump_json(indent=1) + "\n", encoding="utf-8")
    try:
        staging.rename(target)
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
    """Check every byte of a dataset version: rows against the Merkle root, files against hashes.

    Raises:
        DataError: the folder is no dataset version, or a byte of it was changed.
    """
    info = read_info(folder)
    if info.checksum and info.checksum != _checksum(info):
        raise DataError(
            f"{folder / INFO} was changed after dataset {info.id} was built. Delete the folder and "
            "build it again."
        )
    _verify_rows(folder, info)
    for name, expected in info.files.items():
        path = folder / name
        found = sha256_file(path) if path.is_file() else "none"
        if found != expected:
            raise DataError(
                f"{path} was changed after dataset {info.id} was built: expected SHA-256 "
                f"{expected[:12]}, found {found[:12]}. Delete the folder and build it again."
            )
    return info


def _verify_rows(folder: Path, info: DatasetInfo) -> None:
    with MerkleTree() as tree:
        try:
            with (folder / ROWS).open("rb") as file:
                for line in file:
                    tree.add(hashlib.sha256(line.removesuffix(b"\n")).digest())
        except OSError as error:
            raise DataError(f"{folder / ROWS} cannot be read ({error.strerror}).") from error
        root = tree.root()
        if root != info.merkle_root or info.id != f"ds-{root[:12]}" or tree.count != info.rows:
            raise DataError(
                f"{folder / ROWS} was changed after dataset {info.id} was built: expected Merkle "
                f"root {info.merkle_root[:12]}, found {root[:12]}. Delete the folder and build it "
                "again."
            )


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


def read_origins(folder: Path) -> Iterator[Origin]:
    """Read where the rows come from, in their order; nothing for rows that were made elsewhere."""
    path = folder / ORIGINS
    if path.is_file():
        with path.open("rb") as file:
            for line in file:
                yield Origin.model_validate_json(line)


def rows_with_origin(folder: Path) -> Iterator[tuple[DatasetRow, Origin | None]]:
    """Check a dataset version, then read its rows, each with where it comes from if that is known.

    Raises:
        DataError: as `verify_dataset`, at the call.
    """
    verify_dataset(folder)
    return zip_longest(_rows(folder / ROWS), read_origins(folder))


def _checksum(info: DatasetInfo) -> str:
    # Fields that later versions add have defaults, and do not change the sum of older folders.
    text = info.model_copy(update={"checksum": ""}).model_dump_json(exclude_defaults=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _rows(path: Path) -> Iterator[DatasetRow]:
    with path.open("rb") as file:
        for line in file:
            yield DatasetRow.model_validate_json(line)


def _nested(counts: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for (outer, inner), count in sorted(counts.items()):
        nested.setdefault(outer, {})[inner] = count
    return nested
