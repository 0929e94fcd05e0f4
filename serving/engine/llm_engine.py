"""One model version that generates: requests in, one step at a time, text out.

Synchronous, without threads and without asyncio: whoever calls `step` owns the engine.
"""

import logging
import time
from collections.abc import Sequence as Many
from functools import partial
from pathlib import Path

from everloop.errors import EngineError
from everloop.manifest import Manifest, verify
from serving.engine.batch_runner import BatchRunner
from serving.engine.cache import SlotCache
from serving.engine.config import EngineConfig
from serving.engine.exactness import is_batch_invariant, is_exact_in_chunks
from serving.engine.loading import check_golden, load_chat_template, load_tokenizer
from serving.engine.memory import Memory, check_memory
from serving.engine.model_runner import ModelRunner
from serving.engine.observer import EngineObserver, SilentObserver
from serving.engine.output_processor import OutputProcessor
from serving.engine.request_table import RequestTable
from serving.engine.sampling_params import SamplingParams
from serving.engine.scheduler import Schedule, Scheduler
from serving.engine.sequence import GenerationResult, RequestOutput, Sequence
from serving.engine.sequence_factory import SequenceFactory
from serving.engine.slots import choose_slots
from serving.engine.speculation import make_drafter
from serving.engine.step_times import StepTimes
from serving.engine.vocabulary import Vocabulary
from serving.engine.warm_up import WarmUp
from serving.engine.wide_steps import set_up_wide_steps

logger = logging.getLogger(__name__)


class LLMEngine:
    """A loaded model version with its queue, its cache and its running sequences.

    Attributes:
        manifest, config: with the length and the number of slots that are served.
        tokenizer: of the version.
        chat_template: None for a model that only completes text.
        memory: what it takes.
        batch_invariant: whether company left logits as they are, as measured here.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, config: EngineConfig, memory: Memory
    ) -> None:
        self.manifest, self.config = manifest, config
        self.tokenizer = load_tokenizer(folder, manifest)
        self._factory = SequenceFactory(manifest, self.tokenizer)
        self.chat_template = load_chat_template(folder, manifest, self.tokenizer)
        self._tag = manifest.tag
        runner = self._model_runner = ModelRunner(folder, manifest, config)
        self.memory = set_up_wide_steps(runner, self._factory, config, memory)
        self._config = config
        self._times = StepTimes(config.max_slowdown)
        is_exact = partial(is_exact_in_chunks, runner, self._factory, config)
        self._drafter = make_drafter(manifest, config, self._times, is_exact)
        self.batch_invariant = is_batch_invariant(runner, self._factory, config)
        self._begin(SilentObserver())

    def _begin(self, observer: EngineObserver) -> None:
        """Begin with no request and an empty cache; an observer hears of all that follows."""
        self._outputs: list[RequestOutput] = []  # that no step has given yet
        requests = self._requests = RequestTable()
        self._observer = observer
        runner, config = self._model_runner, self._config
        self._cache = SlotCache(config.max_num_seqs, is_recurrent=runner.state.is_recurrent)
        self._scheduler = Scheduler(
            self._cache,
            config.max_num_batched_tokens,
            self.manifest.max_query_len,
            self._times,
            self._drafter,
            runner.wide_from,
        )
        eos_token_ids = frozenset(self.manifest.special_tokens.eos_token_ids)
        outputs = OutputProcessor(self._tag, eos_token_ids, observer)
        self._batches = BatchRunner(
            self._tag, runner, self._factory, self._scheduler, requests, outputs
        )

    @classmethod
    def load(
        cls,
        folder: Path,
        config: EngineConfig,
        observer: EngineObserver | None = None,
        *,
        loaded_bytes: int = 0,
    ) -> "LLMEngine":
        """Open a model version and prove that it generates what it generated when it was exported.

        Args:
            folder: of the version.
            config: limits and threads.
            observer: hears of every step after the proof.
            loaded_bytes: what the versions take that stay loaded beside it.

        Raises:
            ArtifactError: a file is damaged, or a golden continuation comes out differently.
            ConfigError: weights and cache need more memory than there is.
        """
        started = time.monotonic()
        manifest, config = choose_slots(folder, verify(folder), config, loaded_bytes)
        engine = cls(folder, manifest, config, check_memory(folder, manifest, config, loaded_bytes))
        warm_up = WarmUp(engine._model_runner, engine._factory, engine._times)
        warm_up.run(config.max_num_seqs, config.max_num_batched_tokens, manifest.max_query_len)
        check_golden(engine.generate, folder)
        engine._cache.clear()
        if observer:
            engine._begin(observer)
        logger.info("model loaded version=%s seconds=%.2f", engine._tag, time.monotonic() - started)
        return engine

    @property
    def vocabulary(self) -> Vocabulary:
        """The bytes of the version's tokens."""
        return self._factory.vocabulary

    @property
    def has_unfinished(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._requests or self._outputs)

    def check_request(self, prompt_token_ids: list[int], params: SamplingParams) -> None:
        """Refuse what the model cannot take; changes nothing, so any thread may call it.

        Raises:
            PromptTooLongError, DataError: see SequenceFactory.check.
        """
        self._factory.check(prompt_token_ids, params)

    def check_embedding(self, prompt_token_ids: list[int]) -> None:
        """Refuse a text that cannot be embedded; any thread may call it.

        Raises:
            PromptTooLongError, DataError: see SequenceFactory.check_embedding.
        """
        self._factory.check_embedding(prompt_token_ids)

    def add_request(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        params: SamplingParams,
        arrival_time: float | None = None,
        *,
        tenant: str = "",
        deadline: float | None = None,
    ) -> None:
        """Queue a request.

        Args:
            request_id: unique among the unfinished requests.
            prompt_token_ids: at least one token.
            params: how to sample and when to end.
            arrival_time: time.monotonic() of its arrival; None for now.
            tenant: who asks; the engine is shared fairly among those whose requests wait.
            deadline: time.monotonic() at which the request ends as it is; None for never.

        Raises:
            PromptTooLongError, DataError: see `check_request`; or the id is taken.
        """
        self._factory.check(prompt_token_ids, params)
        parts = (request_id, prompt_token_ids, params, arrival_time, tenant, deadline)
        self._add(self._factory.make(*parts))

    def add_embedding(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        arrival_time: float | None = None,
        *,
        tenant: str = "",
        deadline: float | None = None,
    ) -> None:
        """Queue a text to be embedded: its only output has the mean of its hidden states.

        Raises:
            PromptTooLongError, DataError: see `check_embedding`; or the id is taken.
        """
        self._factory.check_embedding(prompt_token_ids)
        make = self._factory.make_embedding
        self._add(make(request_id, prompt_token_ids, arrival_time, tenant, deadline))

    def abort_request(self, request_id: str) -> None:
        """End a request now; the next step gives its last output. Unknown ids are finished ones."""
        sequence = self._requests.get(request_id)
        if sequence is not None:
            self._outputs.append(self._batches.end(sequence, "abort", time.monotonic()))

    def reset(self) -> list[RequestOutput]:
        """Forget every request and begin with an empty cache, whatever `step` raised.

        Returns:
            What came out before, and for every other request that it ends with the reason "error".
        """
        outputs, requests = self._outputs, self._requests
        self._begin(self._observer)
        return outputs + [RequestOutput(one.seq_id, "", (), "error") for one in requests]

    def step(self) -> list[RequestOutput]:
        """Run one step over every sequence that has a place in it, and give what came out.

        A request that fails ends with the reason "error", a batch that fails ends its own requests
        so and no others. After any exception the engine needs a `reset`.
        """
        started = time.monotonic()
        self._end_overdue(started)
        schedule = self._scheduler.schedule()
        for sequence in schedule.admitted:
            self._batches.outputs.admit(sequence, started)
        for copy in schedule.copies:
            self._model_runner.state.copy_prefix(copy.source, copy.target, copy.num_tokens)
        accepted = 0
        for rows in schedule.batches:
            accepted += self._batches.run(rows, self._outputs)
        self._note_step(schedule, accepted, time.monotonic() - started)
        outputs, self._outputs = self._outputs, []
        return outputs

    def generate(
        self, prompts: Many[list[int]], params: SamplingParams | Many[SamplingParams]
    ) -> list[GenerationResult]:
        """Generate for many prompts, offline; results come in the order of the prompts.

        Raises:
            PromptTooLongError, DataError: see `check_request`; nothing was generated.
            EngineError: the engine is serving other requests.
        """
        if self.has_unfinished:
            raise EngineError("the engine is serving requests; generate offline on one of its own.")
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else params
        for prompt, one in zip(prompts, each, strict=True):
            self.check_request(prompt, one)
        for index, (prompt, one) in enumerate(zip(prompts, each, strict=True)):
            self.add_request(str(index), prompt, one)
        collected: list[list[RequestOutput]] = [[] for _ in prompts]
        while self.has_unfinished:
            for output in self.step():
                collected[int(output.request_id)].append(output)
        return [GenerationResult.join(outputs) for outputs in collected]

    def _add(self, sequence: Sequence) -> None:
        self._requests.add(sequence)
        try:
            self._scheduler.add(sequence)
        except BaseException:
            self._requests.remove(sequence)
            raise

    def _end_overdue(self, now: float) -> None:
        for sequence in self._requests.overdue(now):
            self._outputs.append(self._batches.end(sequence, "timeout", now))

    def _note_step(self, schedule: Schedule, accepted: int, seconds: float) -> None:
        self._times.record(
            seconds, schedule.num_decoding, schedule.num_prompt_tokens, schedule.num_drafts
        )
        if batch_size := sum(map(len, schedule.batches)):
            self._observer.step(self._tag, seconds, batch_size)
        if schedule.num_drafts:
            self._observer.drafted(self._tag, schedule.num_drafts, accepted)
        running, waiting = len(self._scheduler.running), len(self._scheduler.waiting)
        self._observer.load(self._tag, running, waiting, self._cache.usage_ratio)
