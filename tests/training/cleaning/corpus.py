"""A small corpus in several files, with everything that cleaning finds."""

import json
import random
from pathlib import Path

from training.dataset import DataConfig

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "r", "l", "st")]


def sentence(number: int, words: int = 20) -> str:
    """A text that resembles no other."""
    chosen = random.Random(number).choices(WORDS, k=words)
    return f"The text of number {number} is {' '.join(chosen)}."


def write_corpus(folder: Path, files: int = 4, texts: int = 12) -> Path:
    """Files of texts; the later ones repeat two texts of the first, one of them nearly."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in range(files):
        lines = [sentence(file * texts + number, 60) for number in range(texts)]
        lines.append(f"short {file}")
        lines.append(f"{sentence(0, 60)} ")
        lines.append(sentence(1, 60).replace("text", f"paper {file}"))
        lines.append(f"{sentence(1000 + file)} Write to a{file}@b.org.")
        content = "".join(json.dumps({"text": line}) + "\n" for line in lines)
        (folder / f"{file}.jsonl").write_text(content, encoding="utf-8")
    return folder


def config(folder: Path, **executor: object) -> DataConfig:
    """One task for every file: two do not fit into one, and none is large enough to be divided."""
    largest = max(path.stat().st_size for path in folder.iterdir())
    table = {"task_megabytes": 0.75e-6 * largest, **executor}
    return DataConfig.model_validate(
        {"sources": [str(folder)], "licence": "MIT", "validation_share": 0.2, "executor": table}
    )
