"""Sends bytes to a server as no client library would, and says how they were answered."""

import asyncio
import json
import re
from collections import Counter
from urllib.parse import urlsplit

from benchmarks.hostile_inputs import HostileInput

_MAX_REPLY = 1 << 26
_READ = 1 << 16
_CODE = re.compile(rb'"code":\s*"(\w+)"')
_FINISH = re.compile(rb'"finish_reason":\s*"(\w+)"')
_MAX_REASON = 90  # characters
_MAX_SHOWN = 4  # different answers


async def send(url: str, one: HostileInput, seconds: float) -> str:
    """Send an input, each of its bodies over a connection of its own.

    Args:
        url: of the server.
        one: what is sent.
        seconds: after which nobody waits any longer.

    Returns:
        How it was answered: status, and error code or finish reason, and how often.
    """
    answers = await asyncio.gather(*(_send(url, one, body, seconds) for body in one.bodies))
    counted = Counter(answers).most_common()
    texts = [f"{count} times {text}" if count > 1 else text for text, count in counted[:_MAX_SHOWN]]
    return "; ".join(texts + ["…"] * (len(counted) > _MAX_SHOWN))


async def _send(url: str, one: HostileInput, body: bytes, seconds: float) -> str:
    parts = urlsplit(url)
    headers = {
        "host": parts.netloc,
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        **one.headers,
    }
    head = f"{one.method} {one.path} HTTP/1.1\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    try:
        async with asyncio.timeout(one.leaves_after or seconds):
            return await _exchange(parts.hostname or "", parts.port or 80, head.encode() + body)
    except TimeoutError:
        return "left" if one.leaves_after else f"no answer in {seconds:.0f} s"
    except OSError as error:
        return type(error).__name__


async def _exchange(host: str, port: int, request: bytes) -> str:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        reply = bytearray()
        reading = asyncio.create_task(_read(reader, reply))
        try:
            writer.write(request)
            await writer.drain()
        except ConnectionError:
            pass  # a server may answer before it has read everything
        await reading
        return _summary(bytes(reply))
    finally:
        writer.transport.abort()


async def _read(reader: asyncio.StreamReader, reply: bytearray) -> None:
    try:
        while len(reply) < _MAX_REPLY and (data := await reader.read(_READ)):
            reply += data
    except ConnectionError:
        pass  # what came before it counts


def _summary(reply: bytes) -> str:
    head, _, body = reply.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if len(words) < 2:
        return "closed"
    status = words[1].decode(errors="replace")
    if codes := _CODE.findall(body):
        return f"{status} {codes[-1].decode()}"
    reasons = Counter(reason.decode() for reason in _FINISH.findall(body))
    if reasons:
        return f"{status} {', '.join(sorted(reasons))}"
    if status != "200" and b'"error"' in body:
        return f"{status} {_reason(body)}"
    return status


def _reason(body: bytes) -> str:
    try:
        error = json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])["error"]
    except (ValueError, KeyError, TypeError):
        return ""
    text = str(error["param"] or error["message"])
    return text if len(text) <= _MAX_REASON else text[:_MAX_REASON] + "…"
