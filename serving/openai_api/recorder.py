"""What the API needs of a store. feedback/store implements it; the API never imports it."""

from typing import Protocol

from everloop.records import Feedback, Interaction


class Recorder(Protocol):
    """Keep interactions and feedback; return only when they are durable."""

    async def record(self, interaction: Interaction) -> None:
        """Keep an interaction.

        Raises:
            StoreError: it could not be made durable.
        """

    async def add_feedback(self, feedback: Feedback) -> None:
        """Keep feedback.

        Raises:
            NotFoundError: no such inference or episode.
            StoreError: it could not be made durable.
        """

    async def check_feedback(self, feedback: Feedback) -> None:
        """Raise what `add_feedback` would, and keep nothing.

        Raises:
            NotFoundError: no such inference or episode.
            StoreError: the store cannot be read.
        """

    async def list_feedback(self, inference_id: str | None, limit: int) -> list[Feedback]:
        """Give feedback, newest first, of one inference or of all."""
