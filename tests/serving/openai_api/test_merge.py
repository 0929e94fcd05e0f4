"""Streams that are merged keep their order, and end together."""

import asyncio
from contextlib import aclosing

import pytest

from serving.openai_api.merge import merge


class Stream:
    """Gives its items, each when it is told to; an exception is raised in its place."""

    def __init__(self, *items) -> None:
        self.items = list(items)
        self.is_cancelled = False

    def __aiter__(self):
        return self

    async def __anext__(self):
        try:
            await asyncio.sleep(0)
            while self.items and self.items[0] is None:
                await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise
        if not self.items:
            raise StopAsyncIteration
        item = self.items.pop(0)
        if isinstance(item, Exception):
            raise item
        return item


async def collect(*streams: Stream) -> list[tuple[int, str]]:
    return [item async for item in merge(streams)]


def test_one_stream_is_given_as_it_is():
    assert asyncio.run(collect(Stream("a", "b"))) == [(0, "a"), (0, "b")]


def test_several_streams_keep_their_own_order():
    found = asyncio.run(collect(Stream("a", "b", "c"), Stream(), Stream("x", "y")))
    assert [item for number, item in found if number == 0] == ["a", "b", "c"]
    assert [item for number, item in found if number == 2] == ["x", "y"]
    assert len(found) == 5


def test_items_come_as_soon_as_they_are_there():
    slow = Stream(None, "late")

    async def run() -> list[tuple[int, str]]:
        found = []
        async for item in merge([slow, Stream("early")]):
            found.append(item)
            slow.items = [item for item in slow.items if item]
        return found

    assert asyncio.run(run()) == [(1, "early"), (0, "late")]


def test_failure_of_one_cancels_the_others():
    waiting = Stream(None, "never")
    with pytest.raises(ValueError, match="broken"):
        asyncio.run(collect(waiting, Stream("a", ValueError("broken"))))
    assert waiting.is_cancelled


def test_closing_cancels_whoever_waits():
    waiting = Stream(None, "never")

    async def run() -> None:
        async with aclosing(merge([waiting, Stream("a")])) as merged:
            assert await anext(merged) == (1, "a")

    asyncio.run(run())
    assert waiting.is_cancelled
