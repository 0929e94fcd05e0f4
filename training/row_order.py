"""The rows of a whole run in order: shuffled per epoch, rows of like length side by side."""

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class RowOrder(Sampler[int]):
    """The rows of a whole run in order: shuffled per epoch, rows of like length side by side.

    The order depends on the seed alone, so that a stopped run resumes by its step number.
    """

    def __init__(
        self, lengths: Sequence[int], rows_per_step: int, *, length: int, seed: int
    ) -> None:
        self._lengths = list(lengths)
        self._rows_per_step = rows_per_step
        self._length = length
        self._seed = seed

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(
            itertools.chain.from_iterable(self._epoch(epoch) for epoch in itertools.count()),
            self._length,
        )

    def _epoch(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self._seed + epoch)
        grouped = get_length_grouped_indices(
            self._lengths, self._rows_per_step, generator=generator
        )
        # Grouping sorts from long to short; training shall not, so the full steps are shuffled.
        full = len(grouped) // self._rows_per_step
        steps = torch.tensor(grouped[: full * self._rows_per_step]).view(full, self._rows_per_step)
        order: list[int] = steps[torch.randperm(full, generator=generator)].flatten().tolist()
        return order + grouped[len(order) :]
