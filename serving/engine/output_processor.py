"""What new tokens make of a request: its text, its end, its times, what observers hear of it."""

from serving.engine.observer import EngineObserver
from serving.engine.pooling import embedding
from serving.engine.row_sampler import SampledRow
from serving.engine.sequence import FinishReason, RequestOutput, Sequence


class OutputProcessor:
    """Turns the tokens of one model version into outputs.

    Args:
        tag: of the version, for the observer.
        eos_token_ids: these end an answer.
        observer: hears of every event of a request.
    """

    def __init__(self, tag: str, eos_token_ids: frozenset[int], observer: EngineObserver) -> None:
        self._tag = tag
        self._eos_token_ids = eos_token_ids
        self._observer = observer

    def admit(self, sequence: Sequence, now: float) -> None:
        """Note that a sequence got its slot."""
        sequence.scheduled_time = now
        self._observer.scheduled(
            self._tag,
            now - sequence.arrival_time,
            sequence.num_prompt_tokens,
            sequence.num_cached_tokens,
        )

    def append(self, sequence: Sequence, sampled: SampledRow, now: float) -> RequestOutput | None:
        """Add what a step chose; tokens behind the end of the answer are dropped.

        Returns:
            The output, the request's last one if its answer has ended; None for a chunk in the
            middle of a prompt.
        """
        if sequence.is_embedding:
            return None if sequence.num_pending_tokens else self.end(sequence, "stop", now)
        sequence.prompt_logprobs += sampled.prompt_logprobs
        if not sampled.token_ids:
            return None
        is_first = not sequence.num_completion_tokens
        wants_prompt = sequence.params.prompt_logprobs is not None
        text, count, reason = self._extend(sequence, sampled.token_ids)
        self._note_tokens(sequence, count, now)
        if reason:
            self._note_end(sequence, reason, now)
        return RequestOutput(
            sequence.seq_id,
            text,
            tuple(sampled.token_ids[:count]),
            reason,
            sequence.times(now) if reason else None,
            sequence.num_cached_tokens if reason else 0,
            sampled.logprobs[:count],
            tuple(sequence.prompt_logprobs) if is_first and wants_prompt else (),
        )

    def end(self, sequence: Sequence, reason: FinishReason, now: float) -> RequestOutput:
        """Give the last output of a request that ends without a new token."""
        self._note_end(sequence, reason, now)
        times, cached = sequence.times(now), sequence.num_cached_tokens
        pooled = embedding(sequence)
        return RequestOutput(sequence.seq_id, "", (), reason, times, cached, embedding=pooled)

    def _extend(
        self, sequence: Sequence, token_ids: list[int]
    ) -> tuple[str, int, FinishReason | None]:
        """Append tokens up to the end of the answer: text, how many there were, why it ended."""
        params, detokenizer = sequence.params, sequence.detokenizer
        text = ""
        for count, token in enumerate(token_ids, start=1):
            sequence.token_ids.append(token)
            if token in self._eos_token_ids and not params.ignore_eos:
                return text + detokenizer.flush(), count, "stop"
            if token in params.stop_token_ids:
                return text + detokenizer.flush(), count, "stop"
            text += detokenizer.add(token)
            if detokenizer.is_stopped:
                return text, count, "stop"
            # The sampler chooses nothing behind the end of a structured output.
            if count == len(token_ids) and sequence.is_structure_complete:
                return text + detokenizer.flush(), count, "stop"
            if sequence.num_completion_tokens >= params.max_tokens:
                return text + detokenizer.flush(), count, "length"
        return text, len(token_ids), None

    def _note_tokens(self, sequence: Sequence, count: int, now: float) -> None:
        if sequence.last_token_time is None:
            sequence.first_token_time = now
            prefill_seconds = now - (sequence.scheduled_time or now)
            self._observer.first_token(self._tag, now - sequence.arrival_time, prefill_seconds)
        else:
            # Several tokens of one step come at once: each took its share of the time.
            seconds = (now - sequence.last_token_time) / count
            for _ in range(count):
                self._observer.inter_token(self._tag, seconds)
        sequence.last_token_time = now

    def _note_end(self, sequence: Sequence, reason: FinishReason, now: float) -> None:
        self._observer.finished(
            self._tag,
            reason,
            sequence.num_prompt_tokens,
            sequence.num_completion_tokens,
            now - (sequence.first_token_time or now),
        )
