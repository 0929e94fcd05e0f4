"""What a request does to its logits before a token is drawn: masks, bias, penalties.

In place and sparse: a step touches the tokens that a sequence has seen and never the vocabulary,
except for the mask of a structured output. The order is that of transformers and of vLLM's sampler:
logit_bias, then the penalties for repetition, frequency and presence. What is impossible comes last
here, which gives the same: nothing brings a token back from minus infinity.
"""

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serving.engine.sampling_params import SamplingParams

Logits = NDArray[np.float32]

_FIRST_CAPACITY = 64
_LARGEST = np.finfo(np.float32).max


class Grammar(Protocol):
    """Where a sequence stands in the grammar of its structured output."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow."""

    def forced_token_ids(self) -> list[int]:
        """The tokens that must come next, as far as there is no choice."""

    def mask(self, logits: Logits, forbidden: NDArray[np.intp] | None) -> NDArray[np.intp] | None:
        """Give the tokens that can come next if they are few, else mask all others.

        Tokens that are forbidden come only if no other can.
        """

    def accept(self, token_id: int) -> None:
        """Go on by a token."""


class LogitsProcessor:
    """The changes of one sequence, with what they need to know of its tokens.

    Args:
        params: of the request.
        prompt_token_ids: count for repetition_penalty only.
        eos_token_ids: the model's end tokens.
        grammar: of params.structured.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt_token_ids: Iterable[int],
        eos_token_ids: Iterable[int],
        grammar: Grammar | None = None,
    ) -> None:
        self._params = params
        self._grammar = grammar
        self._penalties = TokenPenalties(params, prompt_token_ids) if params.has_penalties else None
        self._biased = np.array(list(params.logit_bias), np.intp)
        self._bias = np.array(list(params.logit_bias.values()), np.float32)
        self._ends = np.array(sorted({*eos_token_ids, *params.stop_token_ids}), np.intp)
        self._num_tokens = 0

    @staticmethod
    def is_needed(params: SamplingParams) -> bool:
        """Whether the parameters change any logit."""
        return bool(
            params.has_penalties or params.logit_bias or params.min_tokens or params.structured
        )

    @property
    def is_complete(self) -> bool:
        """Whether a structured output is whole, so that nothing can follow."""
        return self._grammar is not None and self._grammar.is_complete

    @property
    def forced_token_ids(self) -> list[int]:
        """The tokens that must come next, as far as a structured output leaves no choice."""
        return [] if self._grammar is None else self._grammar.forced_token_ids()

    def apply(self, logits: Logits) -> NDArray[np.intp] | None:
        """Change the logits of the next token, (V,), in place.

        Returns:
            The only tokens that can come, if a structured output leaves few; None for all whose
            logits are not minus infinity.
        """
        if self._biased.size:
            logits[self._biased] += self._bias
        if self._penalties is not None:
            self._penalties.apply(logits)
        must_go_on = self._num_tokens < self._params.min_tokens
        if self._grammar is not None:
            is_unending = must_go_on or self._params.ignore_eos
            return self._grammar.mask(logits, self._ends if is_unending else None)
        if must_go_on:
            logits[self._ends] = -np.inf
        return None

    def accept(self, token_id: int) -> None:
        """Take note of the token that was chosen."""
        self._num_tokens += 1
        if self._penalties is not None:
            self._penalties.add(token_id)
        if self._grammar is not None:
            self._grammar.accept(token_id)


class TokenPenalties:
    """Penalties on the tokens of one sequence, kept up to date token by token.

    Sources: repetition, Keskar et al., arXiv:1909.05858, as transformers applies it; frequency and
    presence, the OpenAI API, which counts the tokens of the answer only.
    """

    def __init__(self, params: SamplingParams, prompt_token_ids: Iterable[int]) -> None:
        self._repetition = np.float32(params.repetition_penalty)
        self._frequency = params.frequency_penalty
        self._presence = params.presence_penalty
        seen = dict.fromkeys(prompt_token_ids) if params.repetition_penalty != 1 else {}
        self._places = {token_id: place for place, token_id in enumerate(seen)}
        self._counts = [0] * len(seen)
        capacity = _FIRST_CAPACITY + len(seen)
        self._token_ids = np.zeros(capacity, np.intp)
        self._token_ids[: len(seen)] = list(seen)
        self._amounts = np.zeros(capacity, np.float32)  # what frequency and presence take away

    def add(self, token_id: int) -> None:
        """Count a token of the answer."""
        place = self._places.get(token_id)
        if place is None:
            place = self._places[token_id] = len(self._counts)
            self._counts.append(0)
            if place == self._token_ids.size:
                self._grow()
            self._token_ids[place] = token_id
        self._counts[place] += 1
        self._amounts[place] = self._counts[place] * self._frequency + self._presence

    def apply(self, logits: Logits) -> None:
        """Change the logits, (V,), of the tokens that were seen."""
        size = len(self._counts)
        token_ids = self._token_ids[:size]
        values = logits[token_ids]
        if self._repetition != 1:
            values = np.where(values > 0, values / self._repetition, values * self._repetition)
            # Infinity less infinity would be no number, and no token could be drawn.
            np.minimum(values, _LARGEST, out=values)
        values -= self._amounts[:size]
        logits[token_ids] = values

    def _grow(self) -> None:
        self._token_ids = np.concatenate([self._token_ids, np.zeros_like(self._token_ids)])
        self._amounts = np.concatenate([self._amounts, np.zeros_like(self._amounts)])
