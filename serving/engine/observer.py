"""What the engine tells whoever counts: plain numbers, in the engine's thread, after each event.

`model` is the tag of the version; all times are seconds.
"""

from typing import Protocol


class EngineObserver(Protocol):
    """Receives the engine's events; must return fast, a step waits for it."""

    def step(self, model: str, seconds: float, batch_size: int) -> None:
        """One step ended; batch_size counts its rows."""

    def load(self, model: str, running: int, waiting: int, cache_usage_ratio: float) -> None:
        """The state after a step."""

    def scheduled(
        self, model: str, queue_seconds: float, prompt_tokens: int, cached_tokens: int
    ) -> None:
        """A request got its slot; cached_tokens of its prompt were there already."""

    def first_token(self, model: str, ttft_seconds: float, prefill_seconds: float) -> None:
        """A request has its first token; counted from arrival, and from its slot."""

    def inter_token(self, model: str, seconds: float) -> None:
        """Time between two successive tokens of a request."""

    def drafted(self, model: str, draft_tokens: int, accepted_tokens: int) -> None:
        """A step checked tokens that were drafted, and this many stood."""

    def finished(
        self,
        model: str,
        finish_reason: str,
        prompt_tokens: int,
        completion_tokens: int,
        decode_seconds: float,
    ) -> None:
        """A request ended, for whatever reason; decode_seconds from first to last token."""


class SilentObserver:
    """An observer that counts nothing."""

    def step(self, model: str, seconds: float, batch_size: int) -> None:
        """Ignore the event."""

    def load(self, model: str, running: int, waiting: int, cache_usage_ratio: float) -> None:
        """Ignore the event."""

    def scheduled(
        self, model: str, queue_seconds: float, prompt_tokens: int, cached_tokens: int
    ) -> None:
        """Ignore the event."""

    def first_token(self, model: str, ttft_seconds: float, prefill_seconds: float) -> None:
        """Ignore the event."""

    def inter_token(self, model: str, seconds: float) -> None:
        """Ignore the event."""

    def drafted(self, model: str, draft_tokens: int, accepted_tokens: int) -> None:
        """Ignore the event."""

    def finished(
        self,
        model: str,
        finish_reason: str,
        prompt_tokens: int,
        completion_tokens: int,
        decode_seconds: float,
    ) -> None:
        """Ignore the event."""
