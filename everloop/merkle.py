"""The Merkle root of any number of leaves in bounded memory: sorted on disk, folded as they come.

The same root as `everloop.records.merkle_root`, which needs all leaves in a list.
"""

import hashlib
import heapq
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

_LEAF_BYTES = 32


class MerkleTree:
    """Collects leaves in any order; used as a context manager, for the files that it sorts by.

    Args:
        leaves_in_memory: more are sorted and written to a temporary folder (100 bytes each).
    """

    def __init__(self, leaves_in_memory: int = 1_000_000) -> None:
        self._limit = leaves_in_memory
        self._leaves: list[bytes] = []
        self._folder = tempfile.TemporaryDirectory(prefix="merkle-")
        self._runs: list[Path] = []
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._folder.cleanup()

    def add(self, leaf: bytes) -> None:
        """Add the SHA-256 digest of a row, 32 bytes."""
        self._leaves.append(leaf)
        self.count += 1
        if len(self._leaves) >= self._limit:
            self._spill()

    def root(self) -> str:
        """Fold all leaves in their order; no leaves give the hash of nothing."""
        self._leaves.sort()
        runs = [_read(path) for path in self._runs]
        return fold(heapq.merge(*runs, iter(self._leaves))).hex()

    def _spill(self) -> None:
        path = Path(self._folder.name) / str(len(self._runs))
        self._leaves.sort()
        path.write_bytes(b"".join(self._leaves))
        self._runs.append(path)
        self._leaves = []


def fold(leaves: Iterable[bytes]) -> bytes:
    """Hash neighbours level by level; an odd node at the end of a level moves up unchanged.

    That shape, a full subtree of 2^k leaves for every bit of their number, is RFC 6962's, so it is
    built by keeping one node per height.
    """
    nodes: list[tuple[int, bytes]] = []  # (height, hash), the highest first
    for leaf in leaves:
        height, node = 0, leaf
        while nodes and nodes[-1][0] == height:
            node = hashlib.sha256(nodes.pop()[1] + node).digest()
            height += 1
        nodes.append((height, node))
    if not nodes:
        return hashlib.sha256(b"").digest()
    _, root = nodes.pop()
    while nodes:
        root = hashlib.sha256(nodes.pop()[1] + root).digest()
    return root


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while leaf := file.read(_LEAF_BYTES):
            yield leaf
