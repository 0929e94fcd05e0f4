"""Tokenizing and packing a dataset into token shards, beside the tokenizers library alone.

    .venv/bin/python -m benchmarks.tokenizing [--quick] [--json]

One core. Ours reads dataset rows, encodes, counts bytes, writes the shard files and their hashes;
the peer encodes the same texts in one batch and drops the result. Each round runs both, one after
the other.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.corpora import as_rows, make_bpe
from benchmarks.report import PressureMeter, Result, parser, publish
from everloop.records import Document
from training import python_docs
from training.shards import write_shards
from training.tokenizer import load_tokenizer

TARGET = 0.8
VOCABULARY = 4096
COPIES = 4  # of 2 MB of text


def megabytes_per_second(run: Callable[[], object], num_bytes: int) -> float:
    """The speed of a run over so many bytes of text."""
    started = time.perf_counter()
    run()
    return num_bytes / 1e6 / (time.perf_counter() - started)


def measure(folder: Path, documents: Sequence[str], rounds: int) -> list[Result]:
    """Encode the documents, several times over, in turns."""
    texts = {
        "train": [f"{text}\n{copy}" for copy in range(COPIES) for text in documents],
        "validation": list(documents[:10]),
    }
    every = [text for several in texts.values() for text in several]
    num_bytes = sum(len(text.encode()) for text in every)
    tokenizer = make_bpe(documents, VOCABULARY, folder / "tokenizer")
    encoder = load_tokenizer(tokenizer)
    rows = as_rows(texts)
    ours, peers = [], []
    for number in range(rounds):
        shards = folder / f"shards-{number}"
        ours.append(
            megabytes_per_second(
                lambda shards=shards: write_shards(rows, tokenizer, shards, "benchmark"), num_bytes
            )
        )
        peers.append(
            megabytes_per_second(
                lambda: encoder.encode_batch_fast(every, add_special_tokens=False), num_bytes
            )
        )
    return [Result.of_rounds("tokenize and pack, one core", "MB/s", ours, peers, TARGET)]


def main() -> None:
    """Measure and print."""
    arguments = parser("Token shards beside the tokenizers library.").parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read at the first batch
    documents = [item.text for item in python_docs.read() if isinstance(item, Document)]
    pressure = PressureMeter()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), documents, 2 if arguments.quick else 7)
    publish("tokenizing", results, arguments, pressure.read())


if __name__ == "__main__":
    main()
