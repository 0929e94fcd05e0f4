"""From any answer to what its model learnt from.

interaction → model version → datasets → rows → the documents, interactions and feedback they came
from. Counts cover everything; the rows shown are a bounded sample.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from everloop.errors import NotFoundError
from everloop.manifest import DatasetRef
from everloop.records import DatasetRow, Feedback, Interaction, Source
from feedback.store.database import reading
from feedback.store.datasets import DatasetQueries, DatasetVersion
from feedback.store.interactions import InteractionQueries
from feedback.store.models import ModelQueries
from feedback.store.tables import dataset_rows

_EXCERPT_CHARS = 160


@dataclass(frozen=True, slots=True)
class SourceTrace:
    """Where a row came from.

    Attributes:
        title: a document's title or file; the question of an interaction; what feedback said.
            None when the store does not know the source (any more).
    """

    source: Source
    title: str | None


@dataclass(frozen=True, slots=True)
class RowTrace:
    """One row of a dataset, shortened, with its sources."""

    id: str
    topic: str | None
    excerpt: str
    sources: tuple[SourceTrace, ...]


@dataclass(frozen=True, slots=True)
class DatasetTrace:
    """One dataset that the weights have seen.

    Attributes:
        ref: id, Merkle root, number of rows and use, as the model version's manifest has them.
        version: the dataset in the store; None when only the manifest names it.
        splits: rows by split.
        sources: rows of the training split by kind of source.
        sample: some rows of the training split.
    """

    ref: DatasetRef
    version: DatasetVersion | None
    splits: Mapping[str, int]
    sources: Mapping[str, int]
    sample: tuple[RowTrace, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """The whole way from an answer to its sources.

    Attributes:
        feedback: what was said about the answer.
        model_version: tag of the version that answered.
        ancestors: tags of its parent, that one's parent, and so on.
        datasets: in the order of the manifest.
    """

    interaction: Interaction
    feedback: tuple[Feedback, ...]
    model_version: str
    checkpoint_sha256: str
    ancestors: tuple[str, ...]
    datasets: tuple[DatasetTrace, ...]

    def summary(self) -> dict[str, Any]:
        """The way as plain data, from the answer to the sources, for a report."""
        summary: dict[str, Any] = {
            "completion": self.interaction.id,
            "question": _question(self.interaction),
            "feedback": [_statement(feedback) for feedback in self.feedback],
            "model_version": self.model_version,
            "checkpoint_sha256": self.checkpoint_sha256,
            "ancestors": list(self.ancestors),
        }
        for dataset in self.datasets:
            shown = [
                f"row {row.id[:12]} from "
                + ", ".join(f"{item.source.kind} {item.source.id}" for item in row.sources)
                + f": {row.excerpt}"
                for row in dataset.sample
            ]
            counts = ", ".join(f"{count} {kind}" for kind, count in dataset.sources.items())
            head = f"{dataset.ref.rows} rows, Merkle root {dataset.ref.merkle_root[:12]}; {counts}"
            summary[f"{dataset.ref.use} {dataset.ref.id}"] = [head, *shown]
        return summary


class TraceQueries(InteractionQueries, DatasetQueries, ModelQueries):
    """Walks from an answer to the sources behind its model."""

    def trace(self, completion_id: str, *, sample: int = 5) -> Trace:
        """Walk from an answer to the sources behind the model that gave it.

        Args:
            completion_id: as the client saw it.
            sample: how many rows of each dataset to show.

        Raises:
            NotFoundError: the store has no such interaction, or not the version that answered it.
        """
        interaction = self.interaction(completion_id)
        try:
            version = self.model_version(interaction.model_version)
        except NotFoundError as error:
            raise NotFoundError(
                f"interaction {completion_id} was answered by {interaction.model_version}, which "
                "the store does not know: the version was served without being recorded."
            ) from error
        lineage = version.manifest.lineage
        return Trace(
            interaction=interaction,
            feedback=tuple(self.feedback_for([completion_id])),
            model_version=version.tag,
            checkpoint_sha256=lineage.checkpoint_sha256,
            ancestors=self.ancestors(version.tag) or tuple(filter(None, [lineage.parent])),
            datasets=tuple(self._trace_datasets(lineage.datasets, sample)),
        )

    def _trace_datasets(self, refs: Sequence[DatasetRef], sample: int) -> Iterator[DatasetTrace]:
        known = {version.id: version for version in self.datasets()}
        documents: dict[str, str] = {}
        for ref in refs:
            documents |= known[ref.id].documents if ref.id in known else {}
        for ref in refs:
            if ref.id not in known:
                yield DatasetTrace(ref, None, {}, {}, ())
                continue
            rows = self.dataset_rows(ref.id, split="train", limit=sample)
            yield DatasetTrace(
                ref=ref,
                version=known[ref.id],
                splits=self.row_counts(ref.id),
                sources=self._count_sources(ref.id),
                sample=tuple(self._trace_rows(rows, documents)),
            )

    def _count_sources(self, dataset_id: str) -> dict[str, int]:
        query = select(dataset_rows.c.sources).where(dataset_rows.c.dataset_id == dataset_id)
        counts: Counter[str] = Counter()
        with reading(self.engine) as connection:
            for sources in connection.scalars(query.where(dataset_rows.c.split == "train")):
                counts.update({source["kind"] for source in sources})
        return dict(sorted(counts.items()))

    def _trace_rows(
        self, rows: Sequence[DatasetRow], documents: Mapping[str, str]
    ) -> Iterator[RowTrace]:
        sources = [source for row in rows for source in row.sources]
        asked = [source.id for source in sources if source.kind == "interaction"]
        said = [source.id for source in sources if source.kind == "feedback"]
        titles = {
            **{("document", key): title for key, title in documents.items()},
            **{("interaction", row.id): _question(row) for row in self.interactions_by_id(asked)},
            **{("feedback", row.id): _statement(row) for row in self.feedback_by_id(said)},
        }
        for row in rows:
            traced = (
                SourceTrace(source, titles.get((source.kind, source.id))) for source in row.sources
            )
            yield RowTrace(row.id, row.topic, _excerpt(row), tuple(traced))


def _question(interaction: Interaction) -> str:
    if not interaction.messages:
        return "(no text was kept)"
    return _shorten(interaction.messages[-1].content)


def _statement(feedback: Feedback) -> str:
    return _shorten(f"{feedback.metric_name} = {feedback.value}")


def _excerpt(row: DatasetRow) -> str:
    turns = row.messages or ()
    return _shorten(row.text or " → ".join(message.content for message in turns))


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _EXCERPT_CHARS else line[: _EXCERPT_CHARS - 1] + "…"
