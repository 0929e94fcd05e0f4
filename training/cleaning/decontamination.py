"""Texts that contain the questions or answers of an evaluation set."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.decont import NGramsDecontFilter
from datatrove.pipeline.decont.n_grams import NGramsDecontConfig
from datatrove.pipeline.writers.disk_base import DiskWriter
from datatrove.utils.text import ngrams, simplify_text

from training.cleaning.words import RegexWords


class ContaminationFilter(NGramsDecontFilter):
    """datatrove's rule, naming the evaluation set as the reason.

    Args:
        index_folder: what `write_index` wrote.
    """

    name = "decontamination"

    def __init__(
        self,
        index_folder: Path,
        ngram_words: int,
        words: RegexWords,
        exclusion_writer: DiskWriter | None = None,
    ) -> None:
        super().__init__(
            str(index_folder), NGramsDecontConfig(n_grams=ngram_words), exclusion_writer, words
        )

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Refuse a text with a sequence of words of an evaluation set."""
        verdict = super().filter(doc)
        if verdict is True:
            return True
        doc.metadata["detail"] = doc.metadata.pop("contaminated_ngram")
        return False, doc.metadata.pop("contaminated_task")

    def __getstate__(self) -> dict[str, Any]:
        """Every process reads the index itself."""
        return {**self.__dict__, "_index_hashes": None}


def write_index(sets: Mapping[str, Iterable[str]], ngram_words: int, folder: Path) -> None:
    """Write the word sequences of evaluation sets, as datatrove's filter reads them.

    datatrove's own indexer takes its sets from lighteval. A text shorter than the sequence cannot
    give itself away and is left out.

    Args:
        sets: name of each set with its texts.
        folder: receives one file of hashes per set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = RegexWords()
    # The filter whose hashes these must equal.
    reference = NGramsDecontFilter(
        str(folder), NGramsDecontConfig(n_grams=ngram_words), None, words
    )
    for name, texts in sets.items():
        hashes = {
            reference.hash_func(" ".join(sequence))
            for text in texts
            for sequence in ngrams(
                words.word_tokenize(simplify_text(text, reference.config.norm_config)), ngram_words
            )
        }
        dtype = np.dtype(reference.config.hash_config.np_descr)
        np.array(sorted(hashes), dtype=dtype).tofile(folder / f"{name}.index.hashes")
