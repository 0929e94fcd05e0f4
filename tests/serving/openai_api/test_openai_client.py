"""The official client against the real engine, store and metrics over a tiny random model."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from everloop.manifest import read_manifest
from feedback.store.store import Store, open_store
from feedback.store.writer import StoreConfig, StoreWriter
from monitoring.metrics import Metrics
from serving.engine.async_engine import AsyncEngine
from serving.engine.config import EngineConfig
from serving.openai_api.app import create_app
from serving.openai_api.config import ServerConfig
from tests.serving.conftest import make_client
from tests.serving.fakes import Held, live_server, wait_until

ASK = [{"role": "user", "content": "Hello"}]
ENGINE = EngineConfig(
    num_threads=1, max_num_seqs=2, max_num_batched_tokens=64, max_queue=2, max_memory_bytes=2**30
)


class HeldMetrics(Metrics):
    """Metrics that can hold the engine in a step, so that a test meets it at work."""

    def __init__(self) -> None:
        super().__init__(CollectorRegistry())
        self.held = Held()

    def step(self, model: str, seconds: float, batch_size: int) -> None:
        self.held.step(model, seconds, batch_size)
        super().step(model, seconds, batch_size)


@dataclass
class Server:
    url: str
    app: Starlette
    store: Store
    metrics: HeldMetrics
    loop: asyncio.AbstractEventLoop

    @property
    def engine(self) -> AsyncEngine:
        return self.app.state.api.engine

    def swap(self, folder: Path) -> None:
        swap = self.engine.swap(folder, grace_seconds=20)
        asyncio.run_coroutine_threadsafe(swap, self.loop).result(60)

    def metric(self, name: str, **labels: str) -> float:
        model = read_tag(self.engine)
        return self.metrics._registry.get_sample_value(name, {"model": model} | labels) or 0.0


def read_tag(engine: AsyncEngine) -> str:
    return engine.current.manifest.tag


@pytest.fixture(scope="module")
def server(versions: tuple[Path, Path], tmp_path_factory) -> Iterator[Server]:
    store = open_store(f"sqlite:///{tmp_path_factory.mktemp('store') / 'store.sqlite'}")
    writer = StoreWriter(store.engine, StoreConfig())
    metrics = HeldMetrics()
    engine = AsyncEngine(ENGINE, metrics)
    app = create_app(engine, writer, metrics, metrics.render, ServerConfig())
    server = Server("", app, store, metrics, None)
    watch = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette):
        server.loop = asyncio.get_running_loop()
        await engine.start()
        manifest = await engine.swap(versions[0], 0)
        metrics.model(manifest.tag, manifest.version, manifest.weight_precision, "CPU", True)
        async with watch(app):
            yield
        await engine.stop(1)

    app.router.lifespan_context = lifespan
    with live_server(app) as server.url:
        yield server
    writer.close(5)
    store.close()


@pytest.fixture(scope="module")
def ai(server: Server) -> Iterator[openai.OpenAI]:
    with make_client(server.url, strict=True) as client:
        yield client


def ask(ai: openai.OpenAI, **fields):
    # Past the end tokens: random weights may choose one at any time.
    body = {"model": "everloop", "messages": ASK, "max_tokens": 12, "temperature": 0}
    return ai.chat.completions.create(**body | {"extra_body": {"ignore_eos": True}} | fields)


def test_answer_has_the_length_that_was_asked_for(ai):
    answer = ask(ai)
    assert answer.usage.completion_tokens == 12
    assert answer.choices[0].finish_reason == "length"


def test_streamed_answer_is_the_whole_one(ai):
    whole = ask(ai).choices[0].message.content
    with ask(ai, stream=True, stream_options={"include_usage": True}) as answer:
        received = list(answer)
    assert "".join(c.choices[0].delta.content or "" for c in received if c.choices) == whole
    assert received[-1].usage.completion_tokens == 12


def test_seed_repeats_an_answer_and_another_does_not(ai):
    first, again, other = (
        ask(ai, temperature=1.0, seed=seed).choices[0].message.content for seed in (1, 1, -2)
    )
    assert first == again != other


def test_stop_string_ends_the_answer_and_is_not_in_it(ai):
    whole = ask(ai).choices[0].message.content
    stop = whole[3:5]
    answer = ask(ai, stop=[stop])
    assert answer.choices[0].message.content == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_completion_of_token_ids_is_that_of_its_text(ai):
    fields = {"model": "everloop", "temperature": 0, "extra_body": {"ignore_eos": True}}
    by_text = ai.completions.create(prompt="def f", **fields)
    ids = [int(token) for token in by_ids("def f")]
    assert ai.completions.create(prompt=ids, **fields).choices[0].text == by_text.choices[0].text


def by_ids(text: str) -> list[int]:
    from tests.serving.fakes import byte_tokenizer

    return byte_tokenizer().encode(text).ids


def test_prompt_that_does_not_fit_is_refused(ai):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(ai, messages=[{"role": "user", "content": "x" * 600}])
    assert caught.value.code == "context_length_exceeded"


def test_answer_is_in_the_store_at_its_last_byte(ai, server):
    with ask(ai, stream=True) as answer:
        completion_id = [chunk.id for chunk in answer][-1]
    (kept,) = [row for row in server.store.interactions() if row.id == completion_id]
    assert kept.finish_reason == "length"
    assert kept.model_version == read_tag(server.engine)
    assert 0 <= kept.queue_seconds <= kept.ttft_seconds <= kept.e2e_seconds


def test_feedback_reaches_the_store(ai, server):
    answer = ask(ai)
    body = {"inference_id": answer.id, "metric_name": "thumbs", "value": True}
    receipt = ai.post("/feedback", body=body, cast_to=object)
    (kept,) = server.store.feedback(inference_id=answer.id)
    assert receipt == {"feedback_id": kept.id}


def test_feedback_on_an_unknown_answer_is_not_found(ai):
    body = {"inference_id": "chatcmpl-none", "metric_name": "thumbs", "value": True}
    with pytest.raises(openai.NotFoundError, match="chatcmpl-none"):
        ai.post("/feedback", body=body, cast_to=object)


def test_leaving_client_frees_its_place(ai, server):
    before = server.metric("llm_aborted_requests_total")
    server.metrics.held.hold_in(3)
    with ask(ai, stream=True, max_tokens=450) as answer:
        next(iter(answer))
    assert wait_until(lambda: server.app.state.api.num_active == 0)
    server.metrics.held.let_go()
    assert wait_until(lambda: server.metric("llm_aborted_requests_total") == before + 1)
    assert wait_until(lambda: server.metric("llm_requests_running") == 0)
    assert wait_until(lambda: server.store.interactions()[-1].finish_reason == "abort")


def test_failed_step_is_an_error_for_its_requests_and_the_server_stays_up(ai, server):
    reason = {"finish_reason": "error"}
    before = server.metric("llm_request_success_total", **reason)
    server.engine.current._model_runner._session = None  # every run fails
    with pytest.raises(openai.InternalServerError) as caught:
        ask(ai)
    assert caught.value.code == "engine_stopped"
    assert ask(ai).usage.completion_tokens == 12
    assert server.metric("llm_request_success_total", **reason) == before + 1
    assert httpx.get(f"{server.url}/livez").status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "llm_queue_time_seconds_count",
        "llm_prefill_time_seconds_count",
        "llm_decode_time_seconds_count",
        "llm_time_to_first_token_seconds_count",
        "llm_inter_token_latency_seconds_count",
        "llm_e2e_request_latency_seconds_count",
        "llm_engine_step_seconds_count",
        "llm_batch_size_sum",
        "llm_request_prompt_tokens_sum",
        "llm_request_generation_tokens_sum",
        "llm_prompt_tokens_total",
        "llm_generation_tokens_total",
        "llm_prefix_cache_queries_total",
        "llm_prefix_cache_hits_total",
    ],
)
def test_answers_move_every_number_of_their_version(ai, server, name):
    question = [{"role": "user", "content": f"{name} of one and the same beginning"}]
    before = server.metric(name)
    for _ in range(2):  # the second finds the first's prompt in the cache
        ask(ai, messages=question)
    assert wait_until(lambda: server.metric(name) > before)


def test_load_shows_what_runs_and_waits_and_the_used_cache(ai, server):
    server.metrics.held.hold_in(2)
    asking = [threading.Thread(target=ask, args=(ai,)) for _ in range(4)]
    for thread in asking:
        thread.start()
    assert wait_until(lambda: server.app.state.api.num_active == 4)
    server.metrics.held.hold_in(1)
    assert wait_until(lambda: server.metric("llm_requests_waiting") == 2)
    assert server.metric("llm_requests_running") == 2
    assert server.metric("llm_kv_cache_usage_ratio") == 1
    server.metrics.held.let_go()
    for thread in asking:
        thread.join(60)
    assert wait_until(lambda: server.metric("llm_kv_cache_usage_ratio") == 0)


HEADERS = ("x-request-id", "idempotency-key", "user-agent")


def test_nothing_that_a_client_sends_is_in_the_metrics(ai, server):
    mark = "Marked0"
    ask(
        ai,
        user=mark,
        metadata={"conversation_id": mark, mark: mark},
        stop=mark,
        messages=[{"role": "user", "content": mark, "name": mark}],
        extra_headers={"authorization": f"Bearer {mark}", **dict.fromkeys(HEADERS, mark)},
    )
    with pytest.raises(openai.NotFoundError):
        ask(ai, model=mark)
    with pytest.raises(openai.NotFoundError):
        ai.models.retrieve(mark)
    with pytest.raises(openai.NotFoundError):
        body = {"inference_id": mark, "metric_name": mark, "value": True, "tags": {mark: mark}}
        ai.post("/feedback", body=body, cast_to=object)
    assert httpx.get(f"{server.url}/{mark}?{mark}={mark}").status_code == 404
    for accept in ("text/plain", "application/openmetrics-text"):  # the latter has exemplars
        exposition = httpx.get(f"{server.url}/metrics", headers={"accept": accept}).text
        assert read_tag(server.engine) in exposition
        assert mark not in exposition


def test_full_queue_is_a_rate_limit(ai, server):
    """Two run, two wait; what comes then is refused and told when to come back."""
    server.metrics.held.hold_in(0)
    asking = [threading.Thread(target=ask, args=(ai,)) for _ in range(4)]
    for thread in asking:
        thread.start()
    try:
        assert wait_until(lambda: server.app.state.api.num_active == 4)
        with pytest.raises(openai.RateLimitError) as caught:
            ask(ai)
        assert int(caught.value.response.headers["retry-after"]) >= 1
    finally:
        server.metrics.held.let_go()
        for thread in asking:
            thread.join(60)


def test_swap_under_load_answers_everybody_from_one_version(ai, server, versions):
    answers, failures = [], []

    def talk() -> None:
        try:
            for _ in range(6):
                with ask(ai, stream=True, max_tokens=40) as answer:
                    chunks = list(answer)
                answers.append(({c.model for c in chunks}, text_of(chunks)))
        except openai.OpenAIError as error:
            failures.append(error)

    threads = [threading.Thread(target=talk) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert wait_until(lambda: len(answers) >= 2)
    server.swap(versions[1])
    for thread in threads:
        thread.join(60)
    server.swap(versions[0])
    assert failures == []
    assert len(answers) == 12
    assert all(len(models) == 1 for models, _ in answers)
    texts = {next(iter(models)): set() for models, _ in answers}
    for models, text in answers:
        texts[next(iter(models))].add(text)
    tags = {read_manifest(folder).tag for folder in versions}
    # Greedy: each version has one answer to the question, whoever else is served.
    assert set(texts) <= tags
    assert all(len(found) == 1 for found in texts.values())


def text_of(chunks) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
