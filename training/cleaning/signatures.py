"""MinHash signatures of texts; a conversation's stands for its exact words.

datatrove computes and sorts them; beside its buckets, which name candidates, every document's
hashes are kept in order, so that `duplicates` can verify a candidate before a text is dropped.

Files under the folder: `bucket_*/<rank>.minhash.sig` (datatrove's), `<rank>.hashes` (uint16 [N, H],
the low bits of every hash; H hashes for each of N documents) and `<rank>.exact` (uint64 [N]).
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.utils.hashing import HashConfig
from datatrove.utils.text import simplify_text
from numpy.typing import NDArray
from xxhash import xxh64_intdigest

from training.cleaning.config import DuplicatesConfig
from training.cleaning.turns import identity
from training.cleaning.words import RegexWords


class Signatures(MinhashDedupSignature):
    """Write the signatures of one task's documents.

    A text shorter than one n-gram, and every conversation, has its whole text as its only
    shingle: the rules for texts would call two short answers to two questions the same.
    """

    def __init__(self, folder: Path, config: DuplicatesConfig) -> None:
        super().__init__(str(folder), minhash_config(config), RegexWords())
        self._folder = folder
        self._near = config.near
        self._document: Document | None = None
        self._files: tuple[BinaryIO, BinaryIO] | None = None

    def run(
        self,
        data: Iterable[Document],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Read all documents of a task; nothing is passed on."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (
            (self._folder / f"{rank:05d}.hashes").open("wb") as hashes,
            (self._folder / f"{rank:05d}.exact").open("wb") as exact,
        ):
            self._files = hashes, exact
            super().run(self._noted(data), rank, world_size)
        self._document = self._files = None

    def get_shingles(self, text: str) -> NDArray[np.uint64]:
        """Hash the word n-grams of a text, (S, 1)."""
        assert self._document is not None
        if self._near and "messages" not in self._document.metadata:
            words = self.word_tokenizer.word_tokenize(simplify_text(text, self.config.norm_config))
            count = len(words) - self.config.n_grams + 1
            if count > 0:
                grams = {" ".join(words[at : at + self.config.n_grams]) for at in range(count)}
                return np.fromiter(
                    (self._hash_func(gram) for gram in grams), np.uint64, len(grams)
                ).reshape(-1, 1)
        return np.array([[exact_hash(identity(self._document))]], dtype=np.uint64)

    def get_signature(self, shingles: NDArray[np.uint64]) -> list[list[int]]:
        """Compute the hashes of one document, and keep them."""
        assert self._document is not None and self._files is not None
        signature: list[list[int]] = super().get_signature(shingles)
        hashes, exact = self._files
        flat = np.array(signature, dtype=np.uint32).ravel()
        hashes.write((flat & 0xFFFF).astype("<u2").tobytes())
        exact.write(exact_hash(identity(self._document)).to_bytes(8, "little"))
        return signature

    def _noted(self, data: Iterable[Document]) -> Iterator[Document]:
        # datatrove asks for the shingles of a text without saying of which document it is.
        for document in data:
            self._document = document
            yield document

    def __getstate__(self) -> dict[str, Any]:
        """Open files stay behind."""
        return {**self.__dict__, "_files": None, "_document": None}


def minhash_config(config: DuplicatesConfig) -> MinhashConfig:
    """Translate the table into datatrove's terms; without near duplicates one hash is enough."""
    return MinhashConfig(
        n_grams=config.ngram_words,
        num_buckets=config.buckets if config.near else 1,
        hashes_per_bucket=config.hashes_per_bucket if config.near else 1,
        hash_config=HashConfig(precision=32),
    )


def exact_hash(text: str) -> int:
    """64 bits that are equal for texts which differ in nothing but white space."""
    return int(xxh64_intdigest(" ".join(text.split()).encode("utf-8")))
