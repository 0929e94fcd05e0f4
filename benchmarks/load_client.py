"""Clients of an OpenAI-compatible server, in a process of their own.

    .venv/bin/python -m benchmarks.load_client URL MODEL CLIENTS TIMEOUT_SECONDS < trace > timelines

Each client takes the next request that has arrived, streams its answer to the end, and takes
another. What comes is only noted while the trace lasts and read afterwards, so that the clients,
which share the server's cores, take as little as they can. Nearly every token must come as an event
with a text: all but the control tokens have one.
"""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import aiohttp

from benchmarks.traffic import Request, Timeline, from_json

_EVENT = b"data: "
_END = b"\n\n"
_DONE = b"[DONE]"
_MIN_EVENTS = 0.9  # per token
_POLL_SECONDS = 0.005


@dataclass(slots=True)
class _Reply:
    """When a request was sent, and what came when."""

    sent: float
    parts: list[tuple[float, bytes]] = field(default_factory=list)


class LoadClient:
    """Sends a trace.

    Args:
        url: of the server.
        model: what the requests ask for.
        session: with as many connections as there are clients.
    """

    def __init__(self, url: str, model: str, session: aiohttp.ClientSession) -> None:
        self._url = f"{url}/v1/completions"
        self._model = model
        self._session = session
        self._started = time.perf_counter()
        self._num_events: list[int] = []  # so far, of every request of the trace

    async def run(self, trace: Sequence[Request], clients: int) -> list[Timeline]:
        """Send every request, at most `clients` at once; timelines come in the trace's order."""
        replies: dict[int, _Reply] = {}
        waiting = iter(enumerate(trace))

        async def serve() -> None:
            for number, request in waiting:
                await asyncio.sleep(max(0.0, request.arrival - self._now()))
                while min(self._num_events[:number], default=0) < request.after_tokens:
                    await asyncio.sleep(_POLL_SECONDS)
                replies[number] = await self._stream(number, request)

        self._num_events = [0] * len(trace)
        self._started = time.perf_counter()
        await asyncio.gather(*(serve() for _ in range(clients)))
        return [_timeline(request, replies[number]) for number, request in enumerate(trace)]

    async def _stream(self, number: int, request: Request) -> "_Reply":
        body = {
            "model": self._model,
            "prompt": request.prompt,
            "max_tokens": request.tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        reply = _Reply(self._now())
        async with self._session.post(self._url, json=body) as response:
            if response.status != 200:
                raise RuntimeError(f"HTTP {response.status}: {(await response.text())[:500]}")
            async for data in response.content.iter_any():
                reply.parts.append((self._now(), data))
                self._num_events[number] += data.count(_END)
        return reply

    def _now(self) -> float:
        return time.perf_counter() - self._started


def _timeline(request: Request, reply: _Reply) -> Timeline:
    """When each token of a reply was there.

    Raises:
        RuntimeError: the reply is not whole, or the stream broke off.
    """
    times: list[float] = []
    counted = 0
    rest = b""
    for moment, data in reply.parts:
        *events, rest = (rest + data).split(_END)
        for event in events:
            tokens, total = _read(event)
            times.extend([moment] * tokens)
            counted = total or counted
    if counted != request.tokens or len(times) < _MIN_EVENTS * counted:
        raise RuntimeError(
            f"asked for {request.tokens} tokens, got {len(times)} events, and the server "
            f"counted {counted}."
        )
    return Timeline(reply.sent, counted, times)


def _read(event: bytes) -> tuple[int, int]:
    """Events with a text (0 or 1), and the server's count of tokens if the event has it."""
    content = event.removeprefix(_EVENT)
    if not event.startswith(_EVENT) or content == _DONE:
        return 0, 0
    chunk = json.loads(content)
    if "error" in chunk:
        raise RuntimeError(f"the stream broke off: {chunk['error']}")
    has_text = any(choice["text"] for choice in chunk["choices"])
    usage = chunk.get("usage")
    return int(has_text), usage["completion_tokens"] if usage else 0


async def send(
    url: str, model: str, trace: Sequence[Request], clients: int, timeout_seconds: float
) -> list[Timeline]:
    """Send a trace over as many connections as there are clients.

    Raises:
        TimeoutError: it took longer than it may.
        RuntimeError: a request failed, or its answer is not whole.
    """
    # A connection for each request, for every server alike: llama.cpp's ends one after a stream
    # without saying so, and a POST that then goes out on it fails.
    connector = aiohttp.TCPConnector(limit=clients, force_close=True)
    timeout = aiohttp.ClientTimeout(total=timeout_seconds)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        async with asyncio.timeout(timeout_seconds):
            return await LoadClient(url, model, session).run(trace, clients)


def main() -> None:
    """Send the trace of stdin and write the timelines to stdout."""
    url, model, clients, timeout_seconds = sys.argv[1:]
    trace = from_json(sys.stdin.read())
    timelines = asyncio.run(send(url, model, trace, int(clients), float(timeout_seconds)))
    json.dump([asdict(timeline) for timeline in timelines], sys.stdout)


if __name__ == "__main__":
    main()
