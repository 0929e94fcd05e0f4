"""Streams that run while something else happens, in a process of their own; when each token came.

    .venv/bin/python -m benchmarks.stream_watch URL MODEL STREAMS TOKENS SECONDS > watched

Each stream is asked for again when it has ended. "ready" is printed when all have begun; what came
is written when stdin ends or the time is over. Times are those of the monotonic clock, which all
processes share.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field

import aiohttp

READY = "ready"
_PAUSE_SECONDS = 0.1  # after an end that nobody wanted


@dataclass(slots=True)
class Watched:
    """One stream.

    Attributes:
        times: when something came.
        fault: how it ended, unless as it was to.
    """

    times: list[float] = field(default_factory=list)
    fault: str | None = None


class StreamWatch:
    """So many streams at once.

    Args:
        url: of the server.
        model: that they ask for.
        tokens: of each.
        session: with as many connections.
    """

    def __init__(self, url: str, model: str, tokens: int, session: aiohttp.ClientSession) -> None:
        self._url = f"{url}/v1/completions"
        self._body = {
            "model": model,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        self._session = session
        self.watched: list[Watched] = []

    async def run(self, streams: int, seconds: float) -> None:
        """Watch until the end of stdin; say when all have begun."""
        runs = [asyncio.create_task(self._repeat(number)) for number in range(streams)]
        stopped = asyncio.create_task(asyncio.to_thread(sys.stdin.buffer.read))
        try:
            async with asyncio.timeout(seconds):
                while not (self.watched and all(one.times for one in self.watched[:streams])):
                    await asyncio.sleep(0.02)
                print(READY, flush=True)
                await stopped
        except TimeoutError:
            pass
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)

    async def _repeat(self, number: int) -> None:
        while True:
            watched = Watched()
            self.watched.append(watched)
            try:
                await self._stream(watched, [5 + number, 6, 7])
            except aiohttp.ClientError as error:
                watched.fault = type(error).__name__
            if watched.fault:
                watched.times.append(time.monotonic())
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _stream(self, watched: Watched, prompt: list[int]) -> None:
        last = b""
        async with self._session.post(self._url, json=self._body | {"prompt": prompt}) as response:
            if response.status != 200:
                watched.fault = f"HTTP {response.status}"
                return
            async for data in response.content.iter_any():
                watched.times.append(time.monotonic())
                last = (last + data)[-1000:]
        if not last.endswith(b"data: [DONE]\n\n") or b'"error"' in last:
            watched.fault = "broken off"


async def watch(url: str, model: str, streams: int, tokens: int, seconds: float) -> list[Watched]:
    """Run the streams until stdin ends or the time is over."""
    timeout = aiohttp.ClientTimeout(total=None, sock_read=seconds)
    connector = aiohttp.TCPConnector(limit=streams)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        watcher = StreamWatch(url, model, tokens, session)
        await watcher.run(streams, seconds)
        return watcher.watched


def main() -> None:
    """Watch, and write what was seen to stdout."""
    url, model, streams, tokens, seconds = sys.argv[1:]
    watched = asyncio.run(watch(url, model, int(streams), int(tokens), float(seconds)))
    json.dump([asdict(one) for one in watched], sys.stdout)


if __name__ == "__main__":
    main()
