"""What a reader meets at the end of a request that failed."""

import asyncio

import pytest

from everloop.errors import DataError, EngineStoppedError
from serving.engine.output_stream import Mailbox, OutputStream
from serving.engine.sequence import RequestOutput


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (None, EngineStoppedError, "the engine could not finish request a; send it again."),
        (DataError("structured: too much."), DataError, "structured: too much."),
    ],
)
def test_reader_gets_the_error_of_the_request(
    error: DataError | None, expected: type[Exception], message: str
) -> None:
    async def read() -> None:
        mailbox = Mailbox()
        stream = OutputStream("a", mailbox, lambda: None)
        mailbox.put(RequestOutput("a", "", (), "error", error=error))
        with pytest.raises(expected) as raised:
            await anext(stream)
        assert str(raised.value) == message
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    asyncio.run(read())
