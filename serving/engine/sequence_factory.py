"""From a request to a sequence: what the model cannot take is refused here, once."""

import secrets
import time

import numpy as np
from tokenizers import Tokenizer

from everloop.errors import DataError, PromptTooLongError
from everloop.manifest import Manifest
from serving.engine.detokenizer import Detokenizer
from serving.engine.logits_processor import LogitsProcessor
from serving.engine.sampling_params import SamplingParams
from serving.engine.sequence import Sequence
from serving.engine.structured_output import GrammarCompiler
from serving.engine.vocabulary import Vocabulary

_NO_SAMPLING = SamplingParams(max_tokens=1, temperature=0.0)


class SequenceFactory:
    """Makes the sequences of one model version.

    Attributes:
        vocabulary: the bytes of the version's tokens.
    """

    def __init__(self, manifest: Manifest, tokenizer: Tokenizer) -> None:
        self._manifest = manifest
        self.vocabulary = Vocabulary(tokenizer)
        self._eos_token_ids = manifest.special_tokens.eos_token_ids
        self._grammars = GrammarCompiler(self.vocabulary, manifest.vocab_size, self._eos_token_ids)

    def check(self, prompt_token_ids: list[int], params: SamplingParams) -> None:
        """Refuse what the model cannot take; any thread may call it.

        A grammar that was not met before is compiled, which can take tens of milliseconds.

        Raises:
            PromptTooLongError: prompt and answer together exceed the model's context.
            DataError: the prompt is empty, a token is unknown to the model, or the structured
                output cannot be kept.
        """
        self._check_tokens(prompt_token_ids)
        limit = self._manifest.max_model_len
        if len(prompt_token_ids) + params.max_tokens > limit:
            raise PromptTooLongError(
                f"the prompt has {len(prompt_token_ids)} tokens and max_tokens is "
                f"{params.max_tokens}; together the model takes {limit} (max_model_len). Shorten "
                "the prompt or lower max_tokens."
            )
        params.check_vocabulary(self._manifest.vocab_size)
        if params.structured is not None:
            self._grammars.check(params.structured)

    def check_embedding(self, prompt_token_ids: list[int]) -> None:
        """Refuse a text that cannot be embedded; any thread may call it.

        Raises:
            PromptTooLongError: the text exceeds the model's context.
            DataError: the version gives no hidden states, or see `check`.
        """
        if not self._manifest.has_hidden_states:
            raise DataError(
                f"model version {self._manifest.tag} gives no hidden states, so that it cannot "
                "embed. Export it again."
            )
        self._check_tokens(prompt_token_ids)
        limit = self._manifest.max_model_len
        if len(prompt_token_ids) > limit:
            raise PromptTooLongError(
                f"the text has {len(prompt_token_ids)} tokens, the model takes {limit} "
                "(max_model_len). Shorten the text."
            )

    def make(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        params: SamplingParams,
        arrival_time: float | None,
        tenant: str,
        deadline: float | None,
    ) -> Sequence:
        """Make the sequence of a request that was checked."""
        return Sequence(
            request_id,
            list(prompt_token_ids),
            params,
            seed=secrets.randbits(64) if params.seed is None else params.seed,
            detokenizer=Detokenizer(
                self.vocabulary,
                params.stop,
                min_tokens=params.min_tokens,
                # A grammar keeps every byte.
                is_beginning=params.structured is None
                and self.vocabulary.is_special(prompt_token_ids[-1]),
            ),
            arrival_time=time.monotonic() if arrival_time is None else arrival_time,
            tenant=tenant,
            deadline=deadline,
            logits_processor=self._logits_processor(prompt_token_ids, params),
        )

    def make_embedding(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        arrival_time: float | None,
        tenant: str,
        deadline: float | None,
    ) -> Sequence:
        """Make the sequence of a text that was checked, which ends after its prompt."""
        sequence = self.make(
            request_id, prompt_token_ids, _NO_SAMPLING, arrival_time, tenant, deadline
        )
        sequence.hidden_sum = np.zeros(self._manifest.hidden_size, np.float64)
        return sequence

    def make_probe(self, slot: int, num_tokens: int) -> Sequence:
        """Make a sequence of padding in a free slot."""
        padding = [self._manifest.special_tokens.pad_token_id] * num_tokens
        sequence = self.make("probe", padding, _NO_SAMPLING, 0.0, "", None)
        sequence.slot = slot
        return sequence

    def _check_tokens(self, prompt_token_ids: list[int]) -> None:
        if not prompt_token_ids:
            raise DataError("the prompt is empty; give at least one token.")
        low, high = min(prompt_token_ids), max(prompt_token_ids)
        if low < 0 or high >= self._manifest.vocab_size:
            raise DataError(
                f"the prompt has token ids from {low} to {high}; the model knows 0 to "
                f"{self._manifest.vocab_size - 1}. Use the tokenizer of {self._manifest.tag}."
            )

    def _logits_processor(
        self, prompt_token_ids: list[int], params: SamplingParams
    ) -> LogitsProcessor | None:
        if not LogitsProcessor.is_needed(params):
            return None
        structured = params.structured
        grammar = None if structured is None else self._grammars.start(structured)
        return LogitsProcessor(params, prompt_token_ids, self._eos_token_ids, grammar)
