"""Packed token windows for pre-training: which tokens a step sees, as a function of seed and index.

A window of T + 1 tokens gives T inputs and T targets, each input's target being the next token.
Windows run over document borders; the separator token stands there and begins the next document:
positions count anew from it, and models let no token see beyond the beginning of its document.
"""

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

Tokens = npt.NDArray[np.generic]
Example = dict[str, npt.NDArray[np.int64]]


class TrainingWindows(Dataset[Example]):
    """An endless shuffled stream of windows: item i is the same whenever it is asked for.

    An epoch cuts the tokens into windows that do not overlap, from a random offset on, and deals
    them out in random order; so every token is seen once per epoch, at changing places. A stopped
    run resumes by its step number alone.

    Args:
        tokens: the flat shard, at least `context_length` + 1 tokens.
        length: how many items to offer, any number of epochs.
        separator: token between documents; None lets them see one another.
    """

    def __init__(
        self,
        tokens: Tokens,
        context_length: int,
        *,
        length: int,
        seed: int,
        separator: int | None = None,
    ) -> None:
        self._separator = separator
        self._tokens = tokens
        self._context_length = context_length
        self._length = length
        self._seed = seed
        self._per_epoch = max(1, (len(tokens) - 1) // context_length - 1)
        self._epoch = -1
        self._starts: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        epoch, position = divmod(index, self._per_epoch)
        if epoch != self._epoch:
            self._starts = self._deal(epoch)
            self._epoch = epoch
        start = int(self._starts[position])
        window = self._tokens[start : start + self._context_length + 1]
        return as_example(window, self._separator)

    def _deal(self, epoch: int) -> npt.NDArray[np.int64]:
        generator = np.random.default_rng((self._seed, epoch))
        room = len(self._tokens) - 1 - self._per_epoch * self._context_length
        offset = int(generator.integers(room + 1))
        return offset + generator.permutation(self._per_epoch) * self._context_length


class ValidationWindows(Dataset[Example]):
    """A fixed choice of validation windows, spread evenly over the split.

    Args:
        windows: all windows, [N, T + 1].
        count: how many to take at most.
        separator: token between documents; None lets them see one another.
    """

    def __init__(self, windows: Tokens, count: int, separator: int | None = None) -> None:
        self._separator = separator
        chosen = np.linspace(0, len(windows) - 1, min(count, len(windows))).round().astype(np.int64)
        self._windows = windows[chosen]

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> Example:
        return as_example(self._windows[index], self._separator)


def as_example(window: Tokens, separator: int | None = None) -> Example:
    """Turn T + 1 tokens into T inputs with T targets that need no further shift.

    With a separator, positions within documents come along: they tell models where one begins.
    """
    ids: npt.NDArray[np.int64] = window.astype(np.int64)
    example = {"input_ids": ids[:-1], "labels": ids[1:], "shift_labels": ids[1:]}
    if separator is not None:
        example["position_ids"] = document_positions(ids[:-1], separator)
    return example


def document_positions(ids: npt.NDArray[np.int64], separator: int) -> npt.NDArray[np.int64]:
    """Count positions from each separator on, (T,): [5, 6, S, 7, 8] gives [0, 1, 0, 1, 2]."""
    places = np.arange(len(ids))
    starts = np.where(ids == separator, places, 0)
    return places - np.maximum.accumulate(starts)
