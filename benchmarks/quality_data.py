"""What quality is measured on: windows of text, chat prompts, and versions exported for it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from benchmarks.precisions import PRECISIONS
from everloop.errors import DataError
from everloop.records import Document
from training import python_docs
from training.export import export_checkpoint
from training.export.chat_answers import render
from training.export.special_tokens import read_special_tokens
from training.export.text_windows import TextWindows, cut_windows

PROMPTS = Path(__file__).with_name("chat_prompts.txt")
CALIBRATION_WINDOWS = 16
_MOST_WINDOWS = 10_000  # cut before some are chosen


@dataclass(frozen=True, slots=True)
class QualityData:
    """Token ids of one checkpoint's own tokenizer.

    Attributes:
        windows: [N, W], evenly spread over the text.
        calibration: other windows, as an export takes them.
        prompts: chat prompts with the opening of the answer.
        ends: tokens that end an answer.
    """

    windows: NDArray[np.int64]
    calibration: TextWindows
    prompts: list[list[int]]
    ends: frozenset[int]


def read_data(
    checkpoint: Path, text: Path | None, *, window: int, windows: int, prompts: int
) -> QualityData:
    """Cut the text and render the prompts.

    Args:
        checkpoint: Hugging Face folder with a chat template.
        text: a file; None for Python's documentation, half of which calibrates.
        window: tokens of a window.
        windows, prompts: how many.

    Raises:
        DataError: the text is too short, or the checkpoint has no chat template.
    """
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    docs = [item.text for item in python_docs.read() if isinstance(item, Document)]
    half = len(docs) // 2
    told = "\n\n".join(docs[half:]) if text is None else text.read_text(encoding="utf-8")
    cut = cut_windows([told], tokenizer, context=window - 1, limit=_MOST_WINDOWS).tokens
    if len(cut) < windows:
        raise DataError(
            f"the text has {len(cut)} windows of {window} tokens, {windows} are asked for. "
            "Give a longer text with --text, or ask for fewer with --windows."
        )
    chosen = np.linspace(0, len(cut) - 1, windows).astype(int)
    return QualityData(
        windows=cut[chosen],
        calibration=cut_windows(docs[:half], tokenizer, context=window, limit=CALIBRATION_WINDOWS),
        prompts=render(checkpoint, PROMPTS.read_text(encoding="utf-8").splitlines()[:prompts]),
        ends=frozenset(read_special_tokens(checkpoint).eos_token_ids),
    )


def export_precision(
    checkpoint: Path, name: str, data: QualityData, max_model_len: int, staging: Path
) -> Path:
    """Export a checkpoint in one of the compared precisions; give the version folder."""
    return export_checkpoint(
        checkpoint,
        data.calibration.tokens,
        config=PRECISIONS[name].export_config(max_model_len),
        bytes_per_token=data.calibration.bytes_per_token,
        golden_prompts=data.calibration.prompts,
        evaluation={},
        staging=staging,
    )
