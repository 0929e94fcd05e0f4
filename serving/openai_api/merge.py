"""Several asynchronous streams as one, each item with the number of its stream."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import TypeVar

T = TypeVar("T")


async def merge(streams: Sequence[AsyncIterator[T]]) -> AsyncGenerator[tuple[int, T], None]:
    """Give the items of all streams as they come; what one raises ends them all.

    Closing this generator cancels whoever still waits for an item.
    """
    if len(streams) == 1:  # the usual case needs no task of its own
        async for item in streams[0]:
            yield 0, item
        return
    items: asyncio.Queue[tuple[int, T] | None] = asyncio.Queue()

    async def read(number: int) -> None:
        try:
            async for item in streams[number]:
                items.put_nowait((number, item))
        finally:
            items.put_nowait(None)

    readers = [asyncio.ensure_future(read(number)) for number in range(len(streams))]
    try:
        num_open = len(readers)
        while num_open:
            numbered = await items.get()
            if numbered is not None:
                yield numbered
                continue
            num_open -= 1
            for reader in readers:
                if reader.done():
                    reader.result()
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
