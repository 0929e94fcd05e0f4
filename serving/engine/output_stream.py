"""The reader's end of a request: outputs as they come, and an abort when the reader goes away."""

import asyncio
from collections.abc import AsyncIterator, Callable

from everloop.errors import EngineStoppedError
from serving.engine.sequence import RequestOutput


class Mailbox:
    """Where the engine leaves the outputs of one request. Used on the event loop only."""

    def __init__(self, tenant: str = "") -> None:
        self.tenant = tenant
        self.outputs: asyncio.Queue[RequestOutput] = asyncio.Queue()
        self.is_finished = False

    def put(self, output: RequestOutput) -> None:
        """Leave an output; after one with a finish_reason there are no more."""
        self.is_finished = output.finish_reason is not None
        self.outputs.put_nowait(output)


class OutputStream(AsyncIterator[RequestOutput]):
    """The outputs of one request. Closing, cancelling or dropping it aborts the request."""

    def __init__(self, request_id: str, mailbox: Mailbox, abort: Callable[[], None]) -> None:
        self.request_id = request_id
        self._mailbox = mailbox
        self._abort = abort
        self._is_closed = False

    async def __anext__(self) -> RequestOutput:
        """Wait for the next output.

        Raises:
            EngineStoppedError: the engine stopped, or the step that served this request failed.
            DataError, EngineError: this request alone could not go on.
        """
        if self._is_closed:
            raise StopAsyncIteration
        try:
            output = await self._mailbox.outputs.get()
        except asyncio.CancelledError:
            self._close()
            raise
        self._is_closed = output.finish_reason is not None
        if output.finish_reason == "error":
            raise output.error or EngineStoppedError(
                f"the engine could not finish request {self.request_id}; send it again."
            )
        return output

    async def aclose(self) -> None:
        """End the request at the next step, unless it has ended."""
        self._close()

    def _close(self) -> None:
        if not self._mailbox.is_finished:
            self._abort()
        self._is_closed = True

    def __del__(self) -> None:
        self._close()
