"""Answers of a given form: JSON, a regular expression, a grammar. The only user of llguidance.

A grammar is compiled once per model version and kept; each request gets a copy of its first state.
At every step the copy says which tokens can come next, and all others lose their logits, so that
an answer is right by construction, however weak the model.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from everloop.errors import DataError
from serving.engine.grammar_limits import measure
from serving.engine.grammar_tokens import GrammarTokens
from serving.engine.json_schema import adapted
from serving.engine.sampling_params import StructuredOutput
from serving.engine.vocabulary import Vocabulary

# Bounds of one step beside the library's own. Masks of common grammars take 20 microseconds; the
# most ambiguous ones that these let pass take 10 milliseconds, by the library's defaults 300.
_STEP_MAX_ITEMS = 2_000
_STEP_LEXER_FUEL = 100_000
_MAX_LEXER_STATES = 10_000  # of one or two kilobytes
# Processor time of an answer: so much per token and so much in reserve; what needs more, ends.
_SECONDS_PER_TOKEN = 0.001
_SECONDS_IN_RESERVE = 0.1
_MAX_KEPT_BYTES = 1 << 26  # of compiled grammars, per model version
# Bounds of compiling, a quarter of the library's own.
_INITIAL_LEXER_FUEL = 250_000
_MAX_GRAMMAR_SIZE = 125_000
# A newline and its indentation; without a bound a weak model writes spaces for ever.
_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,16}"
_FEW = 32  # a vocabulary's part that is faster to pick from than to mask the rest of
_MINUS_INFINITY = np.float32(-np.inf).view(np.int32)
_ANY_OBJECT = '{"type": "object"}'
_CAUSES = {"NoExtensionBias": "a rule leads back to itself, so that nothing can follow"}
_NAMES = {
    "json_object": "JSON mode",
    "json_schema": "the JSON schema",
    "regex": "the regular expression",
    "lark": "the grammar",
}


@dataclass(frozen=True, slots=True, eq=False)
class CompiledGrammar:
    """The first state of a grammar.

    Attributes:
        compiler: of the model version that it is for.
        matcher: the state; copied for every answer.
        num_tokens: that its masks are for.
        num_bytes: of memory, an upper bound.
    """

    compiler: "GrammarCompiler"
    matcher: LLMatcher
    num_tokens: int
    num_bytes: int


class GrammarCompiler:
    """The compiled grammars of one model version. Any thread may use it.

    Args:
        vocabulary: of the version.
        vocab_size: of the model; tokens that only its table has are never allowed.
        eos_token_ids: allowed where a grammar may end.
    """

    def __init__(
        self, vocabulary: Vocabulary, vocab_size: int, eos_token_ids: Sequence[int]
    ) -> None:
        self._vocabulary = vocabulary
        self._vocab_size = vocab_size
        self._eos_token_ids = list(eos_token_ids)
        self._lock = threading.Lock()
        self._tokenizer_lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None  # made when first needed: it takes a while
        self._kept: OrderedDict[StructuredOutput, CompiledGrammar] = OrderedDict()
        self._kept_bytes = 0

    def check(self, structured: StructuredOutput) -> None:
        """Compile a grammar, unless that was done before.

        Raises:
            DataError: it is wrong or asks for something that is not supported; with the reason.
        """
        self._find(structured)

    def start(self, structured: StructuredOutput) -> "GrammarMatcher":
        """Begin an answer.

        Raises:
            DataError: see `check`.
        """
        found = self._find(structured)
        return GrammarMatcher(found.matcher.deep_copy(), found.num_tokens)

    def _find(self, structured: StructuredOutput) -> CompiledGrammar:
        # The request's own first: the engine's thread must not compile again what was dropped.
        own = structured.compiled
        if isinstance(own, CompiledGrammar) and own.compiler is self:
            return own
        with self._lock:
            found = self._kept.get(structured)
            if found is not None:
                self._kept.move_to_end(structured)
        if found is None:
            # Outside the lock: nobody must wait until another's grammar is compiled.
            found = self._compile(structured)
            self._keep(structured, found)
        structured.remember(found)
        return found

    def _keep(self, structured: StructuredOutput, found: CompiledGrammar) -> None:
        with self._lock:
            if structured in self._kept or found.num_bytes > _MAX_KEPT_BYTES:
                return
            # A key of its own: the request's remembers what it was compiled to.
            self._kept[StructuredOutput(structured.kind, structured.text)] = found
            self._kept_bytes += found.num_bytes
            while self._kept_bytes > _MAX_KEPT_BYTES:
                self._kept_bytes -= self._kept.popitem(last=False)[1].num_bytes

    def _compile(self, structured: StructuredOutput) -> CompiledGrammar:
        try:
            cost = measure(structured)
            if (changed := adapted(structured)) is not structured:
                cost = measure(changed)
        except DataError as error:
            raise _refusal(structured, str(error)) from error
        if not self._vocabulary.is_exact:
            raise DataError(
                "structured: the tokenizer of this model gives its tokens no bytes of their own, "
                "so no grammar can be kept; byte-level and SentencePiece tokenizers do."
            )
        tokenizer = self._make_tokenizer()
        try:
            grammar = _grammar(changed)
        except ValueError as error:
            raise _refusal(structured, str(error)) from error
        limits = LLParserLimits(
            initial_lexer_fuel=_INITIAL_LEXER_FUEL,
            max_grammar_size=_MAX_GRAMMAR_SIZE,
            step_max_items=_STEP_MAX_ITEMS,
            step_lexer_fuel=_STEP_LEXER_FUEL,
            max_lexer_states=_MAX_LEXER_STATES,
            verbose_errors=False,
        )
        matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
        matcher.compute_bitmask()  # some grammars are found too large only here
        if matcher.is_error():
            raise _refusal(structured, matcher.get_error())
        num_bytes = cost.num_bytes + 4 * len(structured.text)
        return CompiledGrammar(self, matcher, tokenizer.vocab_size, num_bytes)

    def _make_tokenizer(self) -> LLTokenizer:
        with self._tokenizer_lock:
            if self._tokenizer is None:
                tokens = GrammarTokens(self._vocabulary, self._vocab_size, self._eos_token_ids)
                self._tokenizer = LLTokenizer(
                    TokenizerWrapper(tokens), eos_token=self._eos_token_ids or None
                )
            return self._tokenizer


class GrammarMatcher:
    """Where one answer stands in its grammar."""

    def __init__(self, matcher: LLMatcher, num_tokens: int) -> None:
        self._matcher = matcher
        self._words = np.zeros(-(-num_tokens // 32), np.uint32)
        self._seconds_left = _SECONDS_IN_RESERVE

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow."""
        return self._matcher.is_stopped()

    def forced_token_ids(self) -> list[int]:
        """The tokens that must come next, as far as the grammar leaves no choice."""
        return self._matcher.compute_ff_tokens()

    def mask(
        self, logits: NDArray[np.float32], forbidden: NDArray[np.intp] | None = None
    ) -> NDArray[np.intp] | None:
        """Say which tokens can come next.

        Args:
            logits: (V,); those of all other tokens become minus infinity, unless few are left.
            forbidden: tokens that are not wanted; the only ones that can come do come.

        Returns:
            The tokens, rising, if they are few.

        Raises:
            DataError: the grammar is too ambiguous to go on.
        """
        started = time.thread_time()
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        self._check(started)
        bits = np.unpackbits(self._words.view(np.uint8), count=logits.size, bitorder="little")
        if forbidden is not None:
            kept = bits[forbidden]
            bits[forbidden] = 0
            if not bits.any():
                bits[forbidden] = kept
        allowed = bits.view(bool)
        if np.count_nonzero(allowed) <= logits.size // _FEW:
            return np.flatnonzero(allowed)
        # 0 for what is allowed and the bits of minus infinity for what is not: without a branch,
        # a tenth of the time that a masked copy takes where half of the tokens are allowed.
        bias = np.subtract(bits, 1, dtype=np.int32)
        bias &= _MINUS_INFINITY
        logits += bias.view(np.float32)
        return None

    def accept(self, token_id: int) -> None:
        """Go on by a token.

        Raises:
            DataError: the grammar does not allow it, or is too ambiguous to go on.
        """
        started = time.thread_time()
        self._matcher.consume_token(token_id)
        self._seconds_left = min(self._seconds_left + _SECONDS_PER_TOKEN, _SECONDS_IN_RESERVE)
        self._check(started)

    def _check(self, started: float) -> None:
        self._seconds_left -= time.thread_time() - started
        if self._matcher.is_error() or self._seconds_left < 0:
            reason = _sentence(self._matcher.get_error() or "it takes too long")
            raise DataError(f"structured: the grammar cannot be followed further: {reason}.")


def _grammar(structured: StructuredOutput) -> str:
    if structured.kind == "regex":
        return LLMatcher.grammar_from_regex(structured.text)
    if structured.kind == "lark":
        return LLMatcher.grammar_from_lark(structured.text)
    schema = _ANY_OBJECT if structured.kind == "json_object" else structured.text
    return LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": _WHITESPACE})


def _refusal(structured: StructuredOutput, reason: str) -> DataError:
    name = _NAMES[structured.kind]
    return DataError(f"structured: {name} cannot be used: {_sentence(reason)}.")


def _sentence(reason: str) -> str:
    """The part of the library's message that says what is wrong, without the text around it."""
    lines = (reason or "no reason given").split("\n")
    causes = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    cause = " ".join((causes or lines)[0].split()).rstrip(".")
    return _CAUSES.get(cause, cause)
