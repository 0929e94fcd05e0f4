"""Server metrics: hears the engine and the API, answers `/metrics`.

`Metrics` has the methods of serving's two observer Protocols and imports nothing of serving. It is
called once per token from the engine thread, so that each call is one look-up and one observation.
Only registered model versions have series of their own: everything else counts as `other`.
"""

import itertools
import threading

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from monitoring.families import (
    BACKGROUND_TASKS,
    FINISH_REASONS,
    GENERATING_ROUTES,
    OTHER,
    RATINGS,
    ROUTES,
    STATUSES,
    SWAP_RESULTS,
    Families,
    ModelSeries,
)

_GENERATED = frozenset({"ok", "client_abort", "timeout"})  # statuses whose duration is a latency


class Metrics:
    """Everything that the server counts, on one registry.

    Args:
        registry: owns the metrics; a fresh one per server and per test.
        keep_versions: so many model versions keep their series; the longest unused go first.
    """

    def __init__(self, registry: CollectorRegistry, keep_versions: int = 5) -> None:
        self._registry = registry
        self._keep_versions = keep_versions
        self._families = Families(registry)
        self._lock = threading.Lock()
        self._clock = itertools.count()
        self._series: dict[str, ModelSeries] = {}
        self._last_use: dict[str, int] = {}
        self._info: dict[str, tuple[str, str, str, str]] = {}
        self._other = self._families.series(OTHER, ROUTES)
        self._swaps = {name: self._families.swaps.labels(name) for name in SWAP_RESULTS}
        self._ratings = {name: self._families.feedback.labels(name) for name in RATINGS}
        self._background = {
            name: self._families.background_failures.labels(name) for name in BACKGROUND_TASKS
        }
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Give the exposition and its content type, as the Accept header asks."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    # What the engine reports (serving's EngineObserver).

    def step(self, model: str, seconds: float, batch_size: int) -> None:
        """Count one engine step over `batch_size` sequences."""
        series = self._of(model)
        series.histograms.step.observe(seconds)
        series.histograms.batch_size.observe(batch_size)

    def load(self, model: str, running: int, waiting: int, cache_usage_ratio: float) -> None:
        """Show how busy the engine is now."""
        series = self._of(model)
        series.gauges.running.set(running)
        series.gauges.waiting.set(waiting)
        series.gauges.cache_usage.set(cache_usage_ratio)

    def scheduled(
        self, model: str, queue_seconds: float, prompt_tokens: int, cached_tokens: int
    ) -> None:
        """Count a request that left the queue; `cached_tokens` of its prompt were reused."""
        series = self._of(model)
        series.histograms.queue.observe(queue_seconds)
        series.counters.prompt_tokens.inc(prompt_tokens)
        series.counters.prefix_queries.inc(prompt_tokens)
        series.counters.prefix_hits.inc(cached_tokens)
        if model in self._last_use:
            self._last_use[model] = next(self._clock)

    def first_token(self, model: str, ttft_seconds: float, prefill_seconds: float) -> None:
        """Count a request's first token."""
        series = self._of(model)
        series.histograms.ttft.observe(ttft_seconds)
        series.histograms.prefill.observe(prefill_seconds)

    def inter_token(self, model: str, seconds: float) -> None:
        """Count a later token."""
        self._of(model).histograms.inter_token.observe(seconds)

    def drafted(self, model: str, draft_tokens: int, accepted_tokens: int) -> None:
        """Count the drafts of one step, and those that stood."""
        counters = self._of(model).counters
        counters.draft_tokens.inc(draft_tokens)
        counters.accepted_tokens.inc(accepted_tokens)

    def finished(
        self,
        model: str,
        finish_reason: str,
        prompt_tokens: int,
        completion_tokens: int,
        decode_seconds: float,
    ) -> None:
        """Count a request that ended, by whatever reason."""
        series = self._of(model)
        series.finished[_closed(finish_reason, FINISH_REASONS, "error")].inc()
        series.histograms.prompt_length.observe(prompt_tokens)
        series.histograms.generation_length.observe(completion_tokens)
        series.counters.generation_tokens.inc(completion_tokens)
        series.histograms.decode.observe(decode_seconds)
        if finish_reason == "abort":
            series.counters.aborted.inc()

    # What the API reports (serving's ServerObserver).

    def request(self, route: str, model: str, status: str, stream: bool, seconds: float) -> None:
        """Count an answered request; its duration is a latency only if it generated."""
        series = self._of(model)
        key = (_closed(route, ROUTES, OTHER), _closed(status, STATUSES, "error"), stream)
        series.requests.get(key, self._other.requests[key]).inc()
        if route in GENERATING_ROUTES and status in _GENERATED:
            series.histograms.e2e.observe(seconds)

    def feedback(self, rating: str) -> None:
        """Count one piece of feedback."""
        self._ratings[_closed(rating, RATINGS, OTHER)].inc()

    def swap(self, result: str) -> None:
        """Count an attempt to change the served model version."""
        self._swaps[_closed(result, SWAP_RESULTS, "failed")].inc()

    def model(
        self, model: str, version: str, precision: str, provider: str, batch_invariant: bool
    ) -> None:
        """Register the model version that answers from now on.

        Args:
            model: the tag, `name:version`; the value of the label `model` everywhere.
            version: the part after the colon.
            precision: of the weights.
            provider: ONNX Runtime's execution provider.
            batch_invariant: whether its logits were the same to the last bit in any company.
        """
        labels = (version, precision, provider, str(batch_invariant).lower())
        with self._lock:
            if model not in self._series:
                self._series[model] = self._families.series(model, GENERATING_ROUTES)
            self._last_use[model] = next(self._clock)
            for known, old in self._info.items():
                self._families.info.labels(known, *old).set(0)
            self._info[model] = labels
            self._families.info.labels(model, *labels).set(1)
            while len(self._series) > self._keep_versions:
                self._forget(min(set(self._series) - {model}, key=self._last_use.__getitem__))

    def event_loop_lag(self, seconds: float) -> None:
        """Show how late the event loop woke up."""
        self._families.event_loop_lag.observe(seconds)

    def background_failure(self, task: str) -> None:
        """Count the death of a task that runs as long as the server."""
        self._background[_closed(task, BACKGROUND_TASKS, "champion")].inc()

    def store_dropped(self, count: int) -> None:
        """Count interactions that the store could not take."""
        self._families.store_dropped.inc(count)

    def _of(self, model: str) -> ModelSeries:
        return self._series.get(model, self._other)

    def _forget(self, model: str) -> None:
        # First the look-up, then the series: a late call of the engine then lands in `other`.
        del self._series[model], self._last_use[model], self._info[model]
        self._families.remove(model)


def _closed(value: str, allowed: tuple[str, ...], otherwise: str) -> str:
    return value if value in allowed else otherwise
