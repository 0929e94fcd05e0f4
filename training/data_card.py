"""The data card of a dataset version: what is in it, what was left out, and why.

`CardBuilder` counts while the rows are written, in memory that does not grow with them; `DataCard`
is card.json; `data_card_page` draws card.html from it.
"""

import hashlib
import math
from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import Any

from everloop.records import DatasetInfo, DatasetRow, Record
from training.corpus import Dropped, Origin

_SAMPLES = 3  # per reason
_SAMPLE_CHARACTERS = 700
_BINS_PER_OCTAVE = 2
STEPS = (
    "read", "exclude_topics", "special_tokens", "c4", "length", "language", "blocklist", "quality",
    "repetition", "fineweb", "decontamination", "duplicates",
)  # fmt: skip


class Collection(Record):
    """One source of the dataset. Characters are those of the rows."""

    name: str
    licence: str  # empty where nothing of it was kept
    rows: int
    characters: int
    dropped: int = 0


class LengthBin(Record):
    """Rows of a kind with a length from `low` to below `high` characters."""

    kind: str
    low: int
    high: int
    rows: int


class DropSample(Record):
    """A document that was left out; texts are cut."""

    step: str
    reason: str
    source: str
    detail: str
    text: str


class RowSample(Record):
    """A row of the dataset; texts are cut."""

    split: str
    kind: str
    source: str
    text: str


class DataCard(Record):
    """The content of card.json."""

    dataset: DatasetInfo
    built_at: str
    characters: int
    read: int  # documents and conversations, malformed ones included
    left_after: dict[str, int]  # step -> documents that passed it
    collections: tuple[Collection, ...]
    languages: dict[str, int]  # ISO 639-1 -> rows
    lengths: tuple[LengthBin, ...]
    repeated: dict[str, int]  # place of a document -> how many others repeat it; the most repeated
    drop_samples: tuple[DropSample, ...]
    row_samples: tuple[RowSample, ...]
    settings: dict[str, Any]  # the table [data]


class CardBuilder:
    """Counts rows and drops as they pass."""

    def __init__(self) -> None:
        self._collections: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        self._dropped: Counter[str] = Counter()  # name of a source -> documents
        self._languages: Counter[str] = Counter()
        self._lengths: Counter[tuple[str, int]] = Counter()
        self._repeated: Counter[str] = Counter()
        self._drops = _Samples()
        self._rows = _Samples()

    def add(self, row: DatasetRow, origin: Origin) -> None:
        """Count a row."""
        text = row_text(row)
        collection = self._collections[origin.collection, origin.licence]
        collection[0] += 1
        collection[1] += len(text)
        self._languages[origin.language or "und"] += 1
        self._lengths[row.kind, _bin(len(text))] += 1
        sample = RowSample(split=row.split, kind=row.kind, source=origin.source, text=_cut(text))
        self._rows.offer((row.kind,), row.id, sample)

    def drop(self, dropped: Dropped) -> None:
        """Count a document that was left out."""
        self._dropped[dropped.collection] += 1
        if dropped.step == "duplicates":
            self._repeated[dropped.detail.partition(" (similarity")[0]] += 1
        sample = DropSample(
            step=dropped.step,
            reason=dropped.reason,
            source=dropped.source,
            detail=dropped.detail,
            text=_cut(dropped.text),
        )
        self._drops.offer((dropped.step, dropped.reason), dropped.id, sample)

    def finish(self, info: DatasetInfo, settings: dict[str, Any]) -> DataCard:
        """The card of a dataset version that is about to be put into place."""
        left = info.rows + sum(sum(reasons.values()) for reasons in info.dropped.values())
        read, left_after = left, {}
        for step in STEPS:
            if step in info.dropped:
                left -= sum(info.dropped[step].values())
                left_after[step] = left
        return DataCard(
            dataset=info,
            built_at=datetime.now(UTC).isoformat(timespec="seconds"),
            characters=sum(characters for _, characters in self._collections.values()),
            read=read,
            left_after=left_after,
            collections=self._sources(),
            languages=dict(self._languages.most_common()),
            lengths=tuple(
                LengthBin(kind=kind, low=_edge(at), high=_edge(at + 1), rows=rows)
                for (kind, at), rows in sorted(self._lengths.items())
            ),
            repeated=dict(self._repeated.most_common(10)),
            drop_samples=tuple(self._drops.chosen(DropSample)),
            row_samples=tuple(self._rows.chosen(RowSample)),
            settings=settings,
        )

    def _sources(self) -> tuple[Collection, ...]:
        """The sources, the largest first; what was dropped stands with a name's first licence."""
        dropped = Counter(self._dropped)
        kept = sorted(self._collections.items(), key=lambda item: (-item[1][1], item[0]))
        found = [
            Collection(
                name=name,
                licence=licence,
                rows=rows,
                characters=characters,
                dropped=dropped.pop(name, 0),
            )
            for (name, licence), (rows, characters) in kept
        ]
        found += [
            Collection(name=name, licence="", rows=0, characters=0, dropped=count)
            for name, count in dropped.most_common()
        ]
        return tuple(found)


def ordered_drops(info: DatasetInfo) -> list[tuple[str, str, int]]:
    """Step, reason and number of all drops, in the order of the steps, the most frequent first."""
    found = [
        (step, reason, count)
        for step, reasons in info.dropped.items()
        for reason, count in reasons.items()
    ]
    places = {step: place for place, step in enumerate(STEPS)}
    return sorted(found, key=lambda drop: (places.get(drop[0], len(places)), -drop[2], drop[1]))


def row_text(row: DatasetRow) -> str:
    """Everything that a person reads in a row, in its order."""
    if row.text is not None:
        return row.text
    turns = (*(row.messages or ()), *(row.chosen or ()), *(row.rejected or ()))
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in turns)


class _Samples:
    """A few of each kind, chosen by the hash of their id: the same in every build."""

    def __init__(self) -> None:
        self._held: defaultdict[tuple[str, ...], list[tuple[bytes, Record]]] = defaultdict(list)

    def offer(self, kind: tuple[str, ...], identifier: str, sample: Record) -> None:
        held = self._held[kind]
        rank = hashlib.blake2b(identifier.encode("utf-8"), digest_size=8).digest()
        if len(held) < _SAMPLES or rank < held[-1][0]:
            held.append((rank, sample))
            held.sort(key=lambda pair: pair[0])
            del held[_SAMPLES:]

    def chosen(self, record: type[Any]) -> list[Any]:
        found = [sample for kind in sorted(self._held) for _, sample in self._held[kind]]
        return [sample for sample in found if isinstance(sample, record)]


def _cut(text: str) -> str:
    return text if len(text) <= _SAMPLE_CHARACTERS else f"{text[:_SAMPLE_CHARACTERS]} …"


def _bin(length: int) -> int:
    return math.floor(_BINS_PER_OCTAVE * math.log2(max(length, 1)))


def _edge(at: int) -> int:
    return math.ceil(2 ** (at / _BINS_PER_OCTAVE))
