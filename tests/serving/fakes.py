"""Small real stand-ins for the API's neighbours: a scripted engine, a recorder in memory, a log of
what was observed, and a server on loopback."""

import asyncio
import contextlib
import json
import socket
import threading
import time
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import uvicorn
from starlette.applications import Starlette
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from everloop.chat import CHAT_TEMPLATE, ChatTemplate
from everloop.errors import NotFoundError, PromptTooLongError
from everloop.records import Feedback, Interaction
from everloop.sampling_defaults import TRAINED, SamplingDefaults
from serving import launch
from serving.engine.observer import SilentObserver
from serving.engine.sampling_params import SamplingParams
from serving.engine.sequence import RequestOutput, RequestTimes, TokenLogprobs
from serving.engine.vocabulary import Vocabulary

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAG = "everloop:v20261124101500-abc123"


def byte_tokenizer() -> Tokenizer:
    """Ids 0 to 2 are the special tokens, the 256 bytes follow."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate((*SPECIALS, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIALS])
    return tokenizer


@dataclass(eq=False)
class ScriptedVersion:
    """What the API reads of an LLMEngine."""

    tag: str = TAG
    max_model_len: int = 512
    chat_template: ChatTemplate | None = field(default_factory=lambda: ChatTemplate(CHAT_TEMPLATE))
    tokenizer: Tokenizer = field(default_factory=byte_tokenizer)
    has_hidden_states: bool = False
    sampling: SamplingDefaults = TRAINED

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.tokenizer)

    batch_invariant = True

    @property
    def manifest(self) -> SimpleNamespace:
        name, _, version = self.tag.partition(":")
        return SimpleNamespace(
            name=name, version=version, tag=self.tag, max_model_len=self.max_model_len,
            vocab_size=259, has_hidden_states=self.has_hidden_states, hidden_size=4,
            sampling=self.sampling,
            special_tokens=SimpleNamespace(eos_token_ids=(0, 2)),
        )  # fmt: skip

    def check_request(self, prompt_token_ids: list[int], params: SamplingParams) -> None:
        """Take every request."""


@dataclass
class ScriptedEngine:
    """An AsyncEngine that answers every request with the same pieces.

    Attributes:
        pieces: texts of the outputs; an exception is raised in its place; None waits for `gate`.
        requests: what was asked: (prompt_token_ids, params).
        aborted: ids of the requests that were closed before their end.
    """

    pieces: list[str | Exception | None] = field(default_factory=lambda: ["Hel", "lo", "", "!"])
    finish_reason: str = "stop"
    current: ScriptedVersion | None = field(default_factory=ScriptedVersion)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    requests: list[tuple[list[int], SamplingParams]] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    tenants: list[str] = field(default_factory=list)
    deadlines: list[float | None] = field(default_factory=list)
    loop: asyncio.AbstractEventLoop | None = None
    is_dead: bool = False

    @property
    def is_ready(self) -> bool:
        return self.current is not None and not self.is_dead

    def release(self) -> None:
        """Open the gate, from any thread."""
        self.loop.call_soon_threadsafe(self.gate.set)

    async def generate(
        self,
        prompt_token_ids: list[int],
        params: SamplingParams,
        request_id: str,
        version: ScriptedVersion | None = None,
        *,
        tenant: str = "",
        deadline: float | None = None,
    ) -> AsyncIterator[RequestOutput]:
        if len(prompt_token_ids) + params.max_tokens > self.current.max_model_len:
            raise PromptTooLongError("too long")
        self.loop = asyncio.get_running_loop()
        self.requests.append((prompt_token_ids, params))
        self.tenants.append(tenant)
        self.deadlines.append(deadline)
        arrival = time.monotonic()
        finished = False
        try:
            for index, piece in enumerate(self.pieces):
                if isinstance(piece, Exception):
                    raise piece
                if piece is None:
                    await self.gate.wait()
                    continue
                await asyncio.sleep(0)
                finished = index == len(self.pieces) - 1
                now = time.monotonic()
                yield RequestOutput(
                    request_id,
                    piece,
                    (100 + index,),
                    self.finish_reason if finished else None,
                    RequestTimes(arrival, arrival, now, now) if finished else None,
                    logprobs=() if params.logprobs is None else (TokenLogprobs(70, -1.0, ()),),
                )
        finally:
            if not finished:
                self.aborted.append(request_id)


@dataclass
class MemoryRecorder:
    """Keeps what it is given; raises `failure` instead if there is one."""

    failure: Exception | None = None
    interactions: list[Interaction] = field(default_factory=list)
    feedback: list[Feedback] = field(default_factory=list)

    async def record(self, interaction: Interaction) -> None:
        await asyncio.sleep(0)
        if self.failure:
            raise self.failure
        self.interactions.append(interaction)

    async def add_feedback(self, feedback: Feedback) -> None:
        if self.failure:
            raise self.failure
        if feedback.inference_id and feedback.inference_id not in {i.id for i in self.interactions}:
            raise NotFoundError(f"no inference {feedback.inference_id}.")
        self.feedback.append(feedback)

    async def check_feedback(self, feedback: Feedback) -> None:
        kept = list(self.feedback)
        await self.add_feedback(feedback)
        self.feedback = kept

    async def list_feedback(self, inference_id: str | None, limit: int) -> list[Feedback]:
        found = [f for f in self.feedback if inference_id in (None, f.inference_id)]
        return found[::-1][:limit]


@dataclass
class ObserverLog:
    """A ServerObserver that remembers."""

    requests: list[tuple[str, str, str, bool]] = field(default_factory=list)
    ratings: list[str] = field(default_factory=list)
    swaps: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    batch_invariant: list[bool] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)
    dropped: int = 0

    def request(self, route: str, model: str, status: str, stream: bool, seconds: float) -> None:
        self.requests.append((route, model, status, stream))

    def feedback(self, rating: str) -> None:
        self.ratings.append(rating)

    def swap(self, result: str) -> None:
        self.swaps.append(result)

    def model(
        self, model: str, version: str, precision: str, provider: str, batch_invariant: bool
    ) -> None:
        self.models.append(model)
        self.batch_invariant.append(batch_invariant)

    def event_loop_lag(self, seconds: float) -> None:
        self.lags.append(seconds)

    def background_failure(self, task: str) -> None:
        self.deaths.append(task)

    def store_dropped(self, count: int) -> None:
        self.dropped += count


class Held(SilentObserver):
    """Can make an engine stand still in the middle of an answer, so that a test meets it there."""

    def __init__(self) -> None:
        self._go = threading.Event()
        self._go.set()
        self._lock = threading.Lock()
        self._steps_left = 0

    def hold_in(self, steps: int) -> None:
        """Go on for so many steps and stand still in the next, before it is told."""
        with self._lock:
            self._steps_left = steps + 1
            self._go.set()

    def let_go(self) -> None:
        """Go on, or do not stand still at all: the engine may have had less to do than that."""
        with self._lock:
            self._steps_left = 0
            self._go.set()

    def step(self, model: str, seconds: float, batch_size: int) -> None:
        with self._lock:
            if self._steps_left:
                self._steps_left -= 1
                if not self._steps_left:
                    self._go.clear()
        self._go.wait(120)


class Stage:
    """An ASGI app that passes requests to the app of the current test."""

    def __init__(self) -> None:
        self.app: Starlette | None = None

    async def __call__(self, scope, receive, send) -> None:
        await self.app(scope, receive, send)


@contextlib.contextmanager
def live_server(app, lifespan: str = "on") -> Iterator[str]:
    """Serve an app on a free loopback port in a thread; gives its URL."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app,
            log_config=None,
            lifespan=lifespan,
            ws="none",
            timeout_graceful_shutdown=5,
            timeout_keep_alive=launch.KEEP_ALIVE_SECONDS,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive(), 120)
            assert server.started, "the app did not start"
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(60)


def leave_when(condition, url: str, body: dict) -> None:
    """Post a request, wait until a condition holds, and hang up without reading an answer."""
    data = json.dumps(body).encode()
    parts = urllib.parse.urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-length: {len(data)}"
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + data)
        assert wait_until(condition)


def wait_until(condition, seconds: float = 60.0) -> bool:
    """Poll a condition that another thread makes true."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return bool(condition())
