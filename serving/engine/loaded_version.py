"""A model version beside the event loop: its unfinished requests, and how many more it takes."""

import asyncio
from collections import Counter

from everloop.errors import DataError, QueueFullError
from serving.engine.llm_engine import LLMEngine
from serving.engine.output_stream import Mailbox
from serving.engine.sequence import RequestOutput


class LoadedVersion:
    """A loaded model version. Used on the event loop only, but for its engine.

    Args:
        engine: steps in the engine's thread.
        max_unfinished: requests that run or wait.

    Attributes:
        idle: set while no request is unfinished.
    """

    def __init__(self, engine: LLMEngine, max_unfinished: int) -> None:
        self.engine = engine
        self.mailboxes: dict[str, Mailbox] = {}
        self.idle = asyncio.Event()
        self.idle.set()
        self._max_unfinished = max_unfinished
        self._num_unfinished: Counter[str] = Counter()  # by tenant

    def open(self, request_id: str, tenant: str) -> Mailbox:
        """Take a request in.

        One tenant alone may fill the whole queue; beside others it may hold as much as it leaves
        free, so that there is always room for those who ask for little. Source: dynamic thresholds,
        Choudhury and Hahne, IEEE/ACM Transactions on Networking, 1998.

        Raises:
            DataError: the id is in use.
            QueueFullError: too many requests are unfinished.
        """
        if request_id in self.mailboxes:
            raise DataError(f"request id {request_id} is still in use.")
        total, own = len(self.mailboxes), self._num_unfinished[tenant]
        if total >= self._max_unfinished:
            raise QueueFullError(
                f"{total} requests run or wait, as many as may (engine.max_queue). Try again."
            )
        if total > own > self._max_unfinished - total:
            raise QueueFullError(
                f"{own} of your requests run or wait, and others ask too (engine.max_queue). Try "
                "again."
            )
        mailbox = self.mailboxes[request_id] = Mailbox(tenant)
        self._num_unfinished[tenant] += 1
        self.idle.clear()
        return mailbox

    def deliver(self, output: RequestOutput) -> None:
        """Leave an output in its mailbox, which is gone after the last."""
        mailbox = self.mailboxes[output.request_id]
        mailbox.put(output)
        if mailbox.is_finished:
            del self.mailboxes[output.request_id]
            self._num_unfinished[mailbox.tenant] -= 1
            if not self.mailboxes:
                self._num_unfinished.clear()
                self.idle.set()

    def fail_all(self) -> None:
        """End every request with the reason "error"."""
        for request_id in list(self.mailboxes):
            self.deliver(RequestOutput(request_id, "", (), "error"))
