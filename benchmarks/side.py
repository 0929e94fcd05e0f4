"""One of the two sides of a comparison: an engine with its weights loaded, whoever made it."""

from types import TracebackType
from typing import Protocol, Self

Prompts = list[list[int]]


class Side(Protocol):
    """An engine that can be timed.

    Attributes:
        label: its name and the precisions that it runs in.
    """

    label: str

    def decode(self, prompts: Prompts, tokens: int) -> float:
        """Tokens per second of all rows together, counted after every row's first token.

        Args:
            prompts: one per row, of equal lengths.
            tokens: per row.
        """

    def prefill(self, prompt: list[int]) -> float:
        """Prompt tokens per second."""

    def __enter__(self) -> Self:
        """Load the weights."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the weights go."""
