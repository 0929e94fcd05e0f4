"""Which documents repeat an earlier one: candidates verified by all of their hashes.

datatrove's clustering drops whatever shares one bucket, and keeps any one of a cluster. Here a
candidate must reach the wanted similarity with a document that stays, and the first one stays.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import MinhashDedupBuckets
from numpy.typing import NDArray

from everloop.text_files import read_text_lines
from training.cleaning.config import DuplicatesConfig
from training.cleaning.signatures import minhash_config

_PAIRS_AT_ONCE = 50_000


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A document that goes, and the earlier one that stays for it.

    Attributes:
        index: of the document among those of its task.
        original: task and index of the one that stays.
        similarity: estimated Jaccard similarity of their n-grams.
    """

    index: int
    original: tuple[int, int]
    similarity: float
    is_exact: bool


class Candidates(MinhashDedupBuckets):
    """datatrove's search for equal buckets, with several of them in one task."""

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """Search this task's buckets for pairs of documents."""
        num_buckets = self.config.num_buckets
        for bucket in range(rank, num_buckets, world_size):
            super().run(data, bucket, num_buckets)


class FindDuplicates(PipelineStep):
    """Verify datatrove's candidate pairs and write `<rank>.jsonl` for every task that has some.

    Its memory grows with the candidates (about 200 bytes each), not with the corpus.
    """

    type = "🫂 - DEDUP"
    name = "verify duplicates"

    def __init__(
        self, signatures: Path, pairs: Path, output: Path, config: DuplicatesConfig
    ) -> None:
        super().__init__()
        self._folder = signatures
        self._pairs = pairs
        self._output = output
        self._similarity = config.similarity
        minhash = minhash_config(config)
        self._num_hashes = minhash.num_buckets * minhash.hashes_per_bucket

    def run(
        self,
        data: DocumentsPipeline = None,  # noqa: ARG002 - datatrove's interface
        rank: int = 0,  # noqa: ARG002 - datatrove's interface
        world_size: int = 1,  # noqa: ARG002 - datatrove's interface
    ) -> None:
        """Decide over all documents at once; one task."""
        index = _HashIndex(self._folder, self._num_hashes)
        earlier: defaultdict[int, list[int]] = defaultdict(list)
        for pairs in self._candidates(index):
            for a, b in pairs[index.similarity(pairs[:, 0], pairs[:, 1]) >= self._similarity]:
                earlier[int(b)].append(int(a))
        self._write(index, self._decide(index, earlier))

    def _candidates(self, index: "_HashIndex") -> Iterator[NDArray[np.int64]]:
        """Pairs (earlier, later) of document numbers, each bucket's by themselves."""
        for path in sorted(self._pairs.glob("*.dups")):
            found = np.fromfile(path, dtype="<u4").reshape(-1, 4).astype(np.int64)
            numbers = np.stack(
                [index.number(found[:, 0], found[:, 1]), index.number(found[:, 2], found[:, 3])], 1
            )
            unique = np.unique(np.sort(numbers, axis=1), axis=0)
            for start in range(0, len(unique), _PAIRS_AT_ONCE):
                yield unique[start : start + _PAIRS_AT_ONCE]

    def _decide(
        self, index: "_HashIndex", earlier: dict[int, list[int]]
    ) -> Iterator[tuple[int, int, float]]:
        """Go through the documents in order: the original of one that went is asked in its place.

        Yields:
            Number of a document that goes, number of the one that stays, their similarity.
        """
        gone: dict[int, int] = {}
        for number in sorted(earlier):
            asked = sorted({gone.get(other, other) for other in earlier[number]})
            similarity = index.similarity(np.full(len(asked), number), np.array(asked))
            best = int(np.argmax(similarity))
            if similarity[best] >= self._similarity:
                gone[number] = asked[best]
                yield number, asked[best], float(similarity[best])

    def _write(self, index: "_HashIndex", found: Iterator[tuple[int, int, float]]) -> None:
        self._output.mkdir(parents=True, exist_ok=True)
        lines: defaultdict[int, list[str]] = defaultdict(list)
        for number, original, similarity in found:
            task, position = index.place(number)
            duplicate = Duplicate(
                index=position,
                original=index.place(original),
                similarity=round(similarity, 3),
                is_exact=index.is_exact(number, original),
            )
            lines[task].append(json.dumps(asdict(duplicate)) + "\n")
            self.stat_update("exact" if duplicate.is_exact else "near")
        for task, content in lines.items():
            (self._output / f"{task:05d}.jsonl").write_text("".join(content), encoding="utf-8")


def read_duplicates(folder: Path, rank: int) -> dict[int, Duplicate]:
    """The duplicates among the documents of a task, by their index."""
    path = folder / f"{rank:05d}.jsonl"
    if not path.is_file():
        return {}
    found = {}
    for line in read_text_lines(path)[:-1]:
        fields = json.loads(line)
        found[fields["index"]] = Duplicate(**{**fields, "original": tuple(fields["original"])})
    return found


class _HashIndex:
    """The hashes of all tasks, mapped from disk; documents are numbered through, task by task."""

    def __init__(self, folder: Path, num_hashes: int) -> None:
        self._hashes: list[NDArray[np.uint16]] = []
        self._exact: list[NDArray[np.uint64]] = []
        self._ranks: list[int] = []
        for path in sorted(folder.glob("*.exact")):
            if not path.stat().st_size:
                continue  # numpy maps no empty file
            self._ranks.append(int(path.stem))
            self._exact.append(np.memmap(path, dtype="<u8", mode="r"))
            hashes = np.memmap(path.with_suffix(".hashes"), dtype="<u2", mode="r")
            self._hashes.append(hashes.reshape(-1, num_hashes))
        self._starts = np.cumsum([0, *map(len, self._exact)])

    def number(self, ranks: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of documents by task and index."""
        tasks = np.searchsorted(np.array(self._ranks), ranks)
        return np.asarray(self._starts[tasks] + indices, dtype=np.int64)

    def place(self, number: int) -> tuple[int, int]:
        """Task and index of a document."""
        task = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._ranks[task], number - int(self._starts[task])

    def similarity(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float64]:
        """Share of equal hashes: the estimate of the Jaccard similarity of their shingles."""
        return np.asarray((self._rows(a) == self._rows(b)).mean(axis=1), dtype=np.float64)

    def is_exact(self, a: int, b: int) -> bool:
        """Whether two texts differ in nothing but white space."""
        return self._digest(a) == self._digest(b)

    def _digest(self, number: int) -> int:
        rank, position = self.place(number)
        return int(self._exact[self._ranks.index(rank)][position])

    def _rows(self, numbers: NDArray[np.int64]) -> NDArray[np.uint16]:
        tasks = np.searchsorted(self._starts, numbers, side="right") - 1
        rows = np.empty((len(numbers), self._hashes[0].shape[1]), dtype=np.uint16)
        for task in np.unique(tasks):
            chosen = tasks == task
            rows[chosen] = self._hashes[task][numbers[chosen] - self._starts[task]]
        return rows
