"""What the API reports to whoever counts. monitoring/metrics.py implements it."""

import time
from dataclasses import dataclass, field
from typing import Literal, Protocol

from starlette.types import Scope

RequestStatus = Literal["ok", "client_abort", "timeout", "rejected", "error"]

_SCOPE_KEY = "everloop.request"


class ServerObserver(Protocol):
    """Hear about requests, feedback and the service around them. Calls must not block."""

    def request(self, route: str, model: str, status: str, stream: bool, seconds: float) -> None:
        """A request was answered or given up; `status` is a RequestStatus, `model` a tag or ""."""

    def feedback(self, rating: str) -> None:
        """Feedback was stored; `rating` is a Rating of records."""

    def swap(self, result: str) -> None:
        """A change of the served version ended: ok or failed."""

    def model(
        self, model: str, version: str, precision: str, provider: str, batch_invariant: bool
    ) -> None:
        """This version answers from now on; company changes its logits or not, as measured."""

    def event_loop_lag(self, seconds: float) -> None:
        """The event loop woke up so late."""

    def background_failure(self, task: str) -> None:
        """A task that runs for as long as the service has died."""

    def store_dropped(self, count: int) -> None:
        """So many interactions could not be recorded."""


@dataclass(slots=True)
class RequestFacts:
    """What a handler finds out about its request, for the count that the middleware makes."""

    id: str
    arrival: float = field(default_factory=time.monotonic)
    model: str = ""
    stream: bool = False
    status: RequestStatus | None = None  # None: follows from the HTTP status


def attach_facts(scope: Scope, facts: RequestFacts) -> None:
    """Give a request its facts."""
    scope[_SCOPE_KEY] = facts


def facts_of(scope: Scope) -> RequestFacts:
    """Find the facts of a request."""
    facts: RequestFacts = scope[_SCOPE_KEY]
    return facts
