"""Dataset versions and their rows, so that a model's answer can be traced to what it learnt from.

The files of a dataset lie in the home folder; here stands what must be found by query.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

from sqlalchemy import Text, cast, delete, func, select

from everloop.errors import DataError, NotFoundError
from everloop.merkle import MerkleTree
from everloop.records import DatasetRow, Source, Split, merkle_root
from feedback.store.database import Queries, insert_new, reading, writing
from feedback.store.tables import dataset_rows, datasets

_ROWS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetVersion:
    """What is known about a dataset as a whole.

    Attributes:
        parent: id of the dataset that this one was made from or extends.
        dropped: reason -> how many documents or examples were left out for it.
        documents: id of a document -> what a reader knows it by: its title, file or address.
    """

    id: str
    kind: Literal["corpus", "feedback"]
    merkle_root: str
    rows: int
    parent: str | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    documents: Mapping[str, str] = field(default_factory=dict)
    created_at: float = field(default_factory=time.time)

    @classmethod
    def of(
        cls,
        rows: Sequence[DatasetRow],
        kind: Literal["corpus", "feedback"],
        *,
        parent: str | None = None,
        dropped: Mapping[str, int] | None = None,
        documents: Mapping[str, str] | None = None,
    ) -> "DatasetVersion":
        """Name a dataset by its content: equal rows give the same id."""
        root = merkle_root([row.sha256 for row in rows])
        return cls(
            id=f"ds-{root[:12]}",
            kind=kind,
            merkle_root=root,
            rows=len(rows),
            parent=parent,
            dropped=dict(dropped or {}),
            documents=dict(documents or {}),
        )


class DatasetQueries(Queries):
    """Saves and reads dataset versions."""

    def save_dataset(self, version: DatasetVersion, rows: Iterable[DatasetRow]) -> None:
        """Save a dataset with its rows; saving it again changes nothing.

        The rows are taken as they come and never held together. They are written a thousand at a
        time, so that a server which writes to the same store gets its turn; what a process that
        was killed left unfinished, the next one completes.

        Raises:
            DataError: the rows are not those that the version's Merkle root names.
        """
        header = {name: getattr(version, name) for name in datasets.c.keys()}  # noqa: SIM118
        with writing(self.engine) as connection:
            insert_new(connection, datasets, [header])
        is_whole = sum(self.row_counts(version.id).values()) == version.rows
        try:
            self._save_rows(version, rows, is_whole)
        except Exception:
            if not is_whole:
                self._forget(version.id)
            raise

    def _save_rows(
        self, version: DatasetVersion, rows: Iterable[DatasetRow], is_whole: bool
    ) -> None:
        stream = iter(rows)
        with MerkleTree() as tree:
            while chunk := list(islice(stream, _ROWS_AT_ONCE)):
                for row in chunk:
                    tree.add(bytes.fromhex(row.sha256))
                if not is_whole:
                    with writing(self.engine) as connection:
                        found = [_to_row(version.id, row) for row in chunk]
                        insert_new(connection, dataset_rows, found)
            root = tree.root()
            if root != version.merkle_root:
                raise DataError(
                    f"dataset {version.id}: expected rows with Merkle root "
                    f"{version.merkle_root[:12]}, found {tree.count} rows with {root[:12]}. Build "
                    "the dataset again."
                )

    def _forget(self, dataset_id: str) -> None:
        with writing(self.engine) as connection:
            connection.execute(delete(dataset_rows).where(dataset_rows.c.dataset_id == dataset_id))
            connection.execute(delete(datasets).where(datasets.c.id == dataset_id))

    def dataset(self, dataset_id: str) -> DatasetVersion:
        """Find a dataset.

        Raises:
            NotFoundError: the store has none of this id.
        """
        query = select(datasets).where(datasets.c.id == dataset_id)
        with reading(self.engine) as connection:
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise NotFoundError(f"no dataset {dataset_id} in the store. List them by datasets().")
        return DatasetVersion(**row)

    def datasets(self, kind: Literal["corpus", "feedback"] | None = None) -> list[DatasetVersion]:
        """List datasets, oldest first."""
        query = select(datasets).order_by(datasets.c.created_at, datasets.c.id)
        if kind is not None:
            query = query.where(datasets.c.kind == kind)
        with reading(self.engine) as connection:
            return [DatasetVersion(**row) for row in connection.execute(query).mappings()]

    def dataset_rows(
        self, dataset_id: str, *, split: Split | None = None, limit: int | None = None
    ) -> list[DatasetRow]:
        """Read rows of a dataset, in the order of their ids."""
        query = select(*(dataset_rows.c[name] for name in DatasetRow.model_fields))
        query = query.where(dataset_rows.c.dataset_id == dataset_id)
        if split is not None:
            query = query.where(dataset_rows.c.split == split)
        with reading(self.engine) as connection:
            found = connection.execute(query.order_by(dataset_rows.c.id).limit(limit)).mappings()
            return [DatasetRow.model_validate(dict(row)) for row in found]

    def row_counts(self, dataset_id: str) -> dict[str, int]:
        """Count the rows of a dataset by split."""
        query = select(dataset_rows.c.split, func.count().label("count"))
        query = query.where(dataset_rows.c.dataset_id == dataset_id).group_by(dataset_rows.c.split)
        with reading(self.engine) as connection:
            return {row.split: int(row._mapping["count"]) for row in connection.execute(query)}

    def rows_from(self, source: Source) -> list[tuple[str, DatasetRow]]:
        """Walk back: every row, with its dataset's id, that came from this source."""
        # Sources are JSON: the quoted id narrows the search down, the comparison decides.
        text = cast(dataset_rows.c.sources, Text)
        query = select(dataset_rows).where(text.contains(json.dumps(source.id), autoescape=True))
        with reading(self.engine) as connection:
            found = connection.execute(query.order_by(dataset_rows.c.dataset_id)).mappings()
            rows = [_from_row(dict(row)) for row in found]
        return [(dataset_id, row) for dataset_id, row in rows if source in row.sources]


def _to_row(dataset_id: str, row: DatasetRow) -> dict[str, Any]:
    return {"dataset_id": dataset_id, **row.model_dump(mode="json")}


def _from_row(row: dict[str, Any]) -> tuple[str, DatasetRow]:
    return row.pop("dataset_id"), DatasetRow.model_validate(row)
