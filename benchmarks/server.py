"""The service as clients see it: throughput and latencies through HTTP, and what HTTP costs.

    .venv/bin/python -m benchmarks.server [--quick] [--json] [--precision int8-kv8]
        [--peers llama.cpp,genai] [--rounds 3] [--clients 1,8,32,128]

The real service runs as a process on loopback, the clients in another. Every round sends the same
trace to each in turn: the service, the engine alone in this process, llama.cpp's server, and
onnxruntime-genai, which has no server and is compared with the engine alone.
"""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import Progress

from benchmarks import bare_loop
from benchmarks.engine import names
from benchmarks.peers import genai, llama_cpp
from benchmarks.peers.genai import GenaiSide
from benchmarks.precisions import PRECISIONS, Precision
from benchmarks.random_model import SMOLLM2_135M, TINY, ModelShape, export_version, make_checkpoint
from benchmarks.report import Result, parser, publish
from benchmarks.servers import Server, everloop_server, llama_server
from benchmarks.serving_experiments import (
    BARE,
    HTTP,
    Send,
    Sizes,
    against_static_batches,
    equal_streams,
    idle_pressure,
    long_prompt,
    poisson_arrivals,
)
from benchmarks.traffic import Request, Timeline
from serving.engine.config import EngineConfig
from serving.engine.llm_engine import LLMEngine

MAX_MODEL_LEN = 2_304  # the long prompt and what a stream writes meanwhile
LLAMA_MODEL_LEN = 1_024  # of the traces that its server gets
REQUESTS = {1: 6, 8: 24, 32: 64, 128: 128}
QUICK_REQUESTS = {1: 3, 8: 12, 32: 32, 128: 64}
STATIC_CLIENTS = 32
LLAMA_SERVER = "llama.cpp server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured, and by whom."""

    precision: Precision
    peers: tuple[str, ...]
    shape: ModelShape
    sizes: Sizes
    config: EngineConfig


def measure(plan: Plan, folder: Path, progress: Progress) -> list[Result]:
    """Start everybody, run all experiments, stop everybody."""
    checkpoint = make_checkpoint(folder / "checkpoint", plan.shape)
    export = plan.precision.export_config(MAX_MODEL_LEN)
    version = export_version(checkpoint, folder / "versions", export)
    with ExitStack() as stack:
        service = stack.enter_context(everloop_server(version, _overrides(plan.config)))
        bare = partial(bare_loop.serve_trace, LLMEngine.load(version, plan.config))
        servers: dict[str, Send] = {HTTP: service.send}
        if "llama.cpp" in plan.peers and plan.precision.llama_cpp and llama_cpp.SERVER.is_file():
            quantization, cache = plan.precision.llama_cpp
            server = llama_server(
                llama_cpp.write_model(checkpoint, quantization),
                cache,
                threads=plan.config.threads,
                rows=plan.config.max_num_seqs,
                max_model_len=LLAMA_MODEL_LEN,
            )
            servers[LLAMA_SERVER] = stack.enter_context(server).send
        static = None
        if "genai" in plan.peers and plan.precision.genai and genai.is_present():
            side = GenaiSide(checkpoint, plan.precision.genai, plan.config.threads)
            static = stack.enter_context(side)
        return run_experiments(plan, service, servers, bare, static, progress)


def run_experiments(
    plan: Plan,
    service: Server,
    servers: dict[str, Send],
    bare: Send,
    static: GenaiSide | None,
    progress: Progress,
) -> list[Result]:
    """One after the other, while all processes wait for their turn.

    Args:
        plan: how much is sent.
        service: ours.
        servers: all that speak HTTP, ours first.
        bare: our engine alone.
        static: a peer without a server.
        progress: shows the traces.
    """
    sizes = plan.sizes
    traces = len(servers) * (len(sizes.requests) + 1) + 2 + 2 * (static is not None)
    bar = progress.add_task("measuring", total=traces * sizes.rounds)

    def advance() -> None:
        progress.advance(bar)

    results = equal_streams({BARE: bare, **servers}, service.loop_seconds, sizes, advance)
    for clients in sizes.requests:
        results += poisson_arrivals(servers, sizes, clients, advance)
    if static is not None and STATIC_CLIENTS in sizes.requests:
        send = _in_static_batches(static)
        results += against_static_batches(bare, send, static.label, sizes, STATIC_CLIENTS, advance)
    return results + long_prompt(service.send, sizes, advance)


def _in_static_batches(side: GenaiSide) -> Send:
    def send(trace: Sequence[Request], clients: int) -> list[Timeline]:
        answered = side.serve_trace(
            [request.arrival for request in trace],
            [request.prompt for request in trace],
            [request.tokens for request in trace],
            clients,
        )
        return [
            Timeline(request.arrival, request.tokens, times)
            for request, times in zip(trace, answered, strict=True)
        ]

    return send


def _overrides(config: EngineConfig) -> list[str]:
    set_fields = config.model_dump(include=config.model_fields_set, mode="json")
    return [f"engine.{name}={json.dumps(value)}" for name, value in set_fields.items()]


def read_options() -> argparse.Namespace:
    """What the command line asks for."""
    options = parser("The service through HTTP next to its peers.")
    options.add_argument("--precision", choices=tuple(PRECISIONS), default="int8-kv8")
    known = ("llama.cpp", "genai")
    options.add_argument("--peers", type=names(known), default=known)
    options.add_argument("--rounds", type=int, help="of every experiment")
    options.add_argument("--clients", type=_numbers, default=tuple(REQUESTS))
    options.add_argument("--spinning", action="store_true", help="set engine.allow_spinning")
    options.add_argument("--tiny", action="store_true", help="a tiny model: try the command out")
    return options.parse_args()


def _numbers(text: str) -> tuple[int, ...]:
    chosen = tuple(map(int, text.split(",")))
    unknown = set(chosen) - set(REQUESTS)
    if unknown:
        raise argparse.ArgumentTypeError(f"choose among {', '.join(map(str, REQUESTS))}.")
    return chosen


def sizes_of(arguments: argparse.Namespace) -> Sizes:
    """How much the options let be sent."""
    shape = TINY if arguments.tiny else SMOLLM2_135M
    requests = QUICK_REQUESTS if arguments.quick else REQUESTS
    sizes: Callable[..., Sizes] = partial(
        Sizes,
        rounds=arguments.rounds or (1 if arguments.quick else 3),
        vocab_size=shape.vocab_size,
        requests={clients: requests[clients] for clients in arguments.clients},
    )
    if arguments.tiny:  # so fast that its streams would have ended
        return sizes(disturbed_tokens=2_000)
    return sizes()


def stop_at_signal(number: int, _frame: FrameType | None) -> None:
    """End as an exception does, so that the servers are ended too."""
    sys.exit(128 + number)


def main() -> None:
    """Measure and print."""
    arguments = read_options()
    signal.signal(signal.SIGTERM, stop_at_signal)
    plan = Plan(
        precision=PRECISIONS[arguments.precision],
        peers=arguments.peers,
        shape=TINY if arguments.tiny else SMOLLM2_135M,
        sizes=sizes_of(arguments),
        # No speculation: a random model repeats itself, which drafts guess.
        config=EngineConfig(allow_spinning=arguments.spinning, speculation="off"),
    )
    pressure = idle_pressure()
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        results = measure(plan, Path(folder), progress)
    settings = {
        "precision": arguments.precision,
        "threads": plan.config.threads,
        "engine.allow_spinning": arguments.spinning,
        "engine.max_num_seqs": plan.config.max_num_seqs,
        "rounds": plan.sizes.rounds,
        "requests by clients": str(dict(plan.sizes.requests)),
    }
    publish("server", results, arguments, pressure, settings)


if __name__ == "__main__":
    main()
