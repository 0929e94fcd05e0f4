"""What one client can do to the others: hostile inputs beside 16 streams of a real server.

    .venv/bin/python -m benchmarks.hostile [--model FOLDER] [--tiny] [--quick] [--json | --markdown]

Each input is sent after the one before is answered. The table says for each how it was answered,
the largest gap between tokens of the streams meanwhile, what the server's memory has grown by, and
how many streams it ended. Beside it stands the gap that an ordinary long prompt makes.
"""

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks.hostile_client import send
from benchmarks.hostile_inputs import COMPLETIONS, HostileInput, corpus
from benchmarks.peers.environment import ROOT
from benchmarks.precisions import PRECISIONS
from benchmarks.random_model import SMOLLM2_135M, TINY, export_version, make_checkpoint
from benchmarks.report import parser, publish_table
from benchmarks.server import stop_at_signal
from benchmarks.servers import Server, everloop_server
from benchmarks.serving_experiments import idle_pressure
from benchmarks.stream_watch import READY, Watched

CONTEXT = 2_048
STREAMS = 16
LONG_PROMPTS = 3
MAX_GAP_SECONDS = 1.0
MAX_GAP_RATIO = 2.0  # of what a long prompt makes
MAX_KEPT_MIB = 200.0
_ANSWER_SECONDS = 60.0
_SETTLE_SECONDS = 0.25  # after an answer, for what it set off
_TINY_SETTLE_SECONDS = 0.05
_WATCH_SECONDS = 3_600.0
_MEBIBYTE = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one input did.

    Attributes:
        gap: the largest between two tokens of one stream, seconds.
        kept: memory of the server, afterwards less before, MiB.
        ended: streams that ended by it.
        ok: whether all three are within their bounds.
    """

    input: str
    answer: str
    gap: float
    kept: float
    ended: int
    ok: bool


@dataclass(frozen=True, slots=True)
class Sent:
    """An input, how it was answered, from when to when, and by what memory grew, MiB."""

    one: HostileInput
    answer: str
    began: float
    ended: float
    kept: float


def measure(
    server: Server, inputs: Sequence[HostileInput], settle: float, progress: Progress
) -> list[Row]:
    """Send everything, one after the other, beside the streams.

    Args:
        server: gets it.
        inputs: what is sent.
        settle: seconds after each answer.
        progress: shows how far it is.
    """
    bar = progress.add_task("sending", total=len(inputs) + LONG_PROMPTS)
    sent = []
    with _watching(server) as watch:
        usual = [_long_prompt(server.model, number) for number in range(LONG_PROMPTS)]
        for one in [*usual, *inputs]:
            sent.append(_send(server, one, settle))
            progress.advance(bar)
        written, _ = watch.communicate(timeout=_ANSWER_SECONDS)
    watched = [Watched(**fields) for fields in json.loads(written)]
    longest = max(largest_gap(watched, one) for one in sent[:LONG_PROMPTS])
    bound = max(MAX_GAP_SECONDS, MAX_GAP_RATIO * longest)
    kept = sum(one.kept for one in sent[LONG_PROMPTS:])
    all_of_it = HostileInput(name="all of it", path="")
    whole = Sent(all_of_it, "", sent[LONG_PROMPTS].began, sent[-1].ended, kept)
    return [row_of(one, watched, bound) for one in [*sent, whole]]


def _send(server: Server, one: HostileInput, settle: float) -> Sent:
    before, began = _memory(server), time.monotonic()
    answer = asyncio.run(send(server.url, one, _ANSWER_SECONDS))
    time.sleep(settle)
    return Sent(one, answer, began, time.monotonic(), _memory(server) - before)


def row_of(sent: Sent, watched: Sequence[Watched], bound: float) -> Row:
    """Say what an input did.

    Args:
        sent: the input.
        watched: every stream of the run.
        bound: of the largest gap, seconds.
    """
    gap = largest_gap(watched, sent)
    ended = sum(
        one.fault is not None and sent.began <= one.times[-1] < sent.ended for one in watched
    )
    return Row(
        input=sent.one.name,
        answer=sent.answer,
        gap=gap,
        kept=sent.kept,
        ended=ended,
        ok=gap <= bound and sent.kept <= MAX_KEPT_MIB and not ended,
    )


def largest_gap(watched: Sequence[Watched], sent: Sent) -> float:
    """The largest gap of one stream that overlaps the time from sending to the end, seconds."""
    return max(
        (
            after - before
            for one in watched
            for before, after in zip(one.times, one.times[1:], strict=False)
            if after > sent.began and before < sent.ended
        ),
        default=sent.ended - sent.began,
    )


def _long_prompt(model: str, number: int) -> HostileInput:
    """One that the cache does not know."""
    ids = np.random.default_rng(number).integers(5, 250, CONTEXT - 1).tolist()
    body = json.dumps({"model": model, "prompt": ids, "max_tokens": 1}).encode()
    return HostileInput(
        name=f"ordinary prompt of {len(ids):,} tokens", path=COMPLETIONS, bodies=[body]
    )


def _memory(server: Server) -> float:
    """Resident, of the server's processes, MiB."""
    if server.worker is None:
        return 0.0
    processes = [server.worker, *server.worker.children(recursive=True)]
    return float(sum(one.memory_info().rss for one in processes) / _MEBIBYTE)


@contextmanager
def _watching(server: Server) -> "Iterator[subprocess.Popen[str]]":
    """Run the streams, from when all have begun."""
    arguments = [server.url, server.model, STREAMS, CONTEXT - 8, _WATCH_SECONDS]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.stream_watch", *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        if process.stdout is None or process.stdout.readline().strip() != READY:
            raise RuntimeError("the streams did not begin; see above.")
        yield process
    finally:
        process.kill()
        process.wait()


def read_options() -> argparse.Namespace:
    """What the command line asks for."""
    options = parser("Hostile inputs of one client beside the streams of others.")
    options.add_argument("--model", type=Path, help="Hugging Face folder, for real weights")
    options.add_argument("--tiny", action="store_true", help="a tiny model: try the command out")
    options.add_argument("--only", default="", help="inputs whose name contains this text")
    return options.parse_args()


def main() -> None:
    """Measure and print."""
    arguments = read_options()
    signal.signal(signal.SIGTERM, stop_at_signal)
    pressure = idle_pressure()
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        checkpoint = arguments.model or make_checkpoint(
            Path(folder) / "checkpoint", TINY if arguments.tiny else SMOLLM2_135M
        )
        export = PRECISIONS["int8-kv8"].export_config(CONTEXT)
        version = export_version(checkpoint, Path(folder) / "versions", export)
        with everloop_server(version, ()) as server:
            inputs = [one for one in corpus(server.model, CONTEXT) if arguments.only in one.name]
            inputs = inputs[:: 3 if arguments.quick else 1]
            settle = _TINY_SETTLE_SECONDS if arguments.tiny else _SETTLE_SECONDS
            rows = measure(server, inputs, settle, progress)
    settings = {"streams": STREAMS, "context": CONTEXT, "precision": "int8-kv8"}
    table = [
        {
            "input": row.input,
            "answer": row.answer,
            "largest gap, ms": round(row.gap * 1e3),
            "memory kept, MiB": round(row.kept, 1),
            "streams ended": row.ended,
            "ok": row.ok,
        }
        for row in rows
    ]
    publish_table("hostile", table, arguments, pressure, settings)


if __name__ == "__main__":
    main()
