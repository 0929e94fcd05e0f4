"""POST /v1/completions: prompts, as text or as token ids, continued."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic_core import to_json

from everloop.records import Message
from everloop.sampling_defaults import SamplingDefaults
from serving.engine.sampling_params import StructuredOutput
from serving.engine.vocabulary import Vocabulary
from serving.openai_api.choice import Choice, Prompt
from serving.openai_api.completion_request import CompletionRequest
from serving.openai_api.config import ServerConfig
from serving.openai_api.endpoint import endpoint
from serving.openai_api.json_template import TEXT_MARK, TEXT_MARK_JSON, JsonTemplate
from serving.openai_api.prompt import PromptEncoder, decode_ids, encode_prompts
from serving.openai_api.reply import ReplyForm
from serving.openai_api.responses import Completion, FinishReason, TextChoice, TextLogprobs
from serving.openai_api.sampling import sampling_defaults, sampling_params
from serving.openai_api.token_logprobs import PlacedToken, TokenPlacer, place_prompt, text_logprobs
from serving.openai_api.unsupported import COMPLETIONS

if TYPE_CHECKING:
    from serving.engine.llm_engine import LLMEngine
    from serving.engine.sequence import RequestOutput

_DEFAULT_MAX_TOKENS = 16  # Source: OpenAI's specification of this route.


def _admit(
    config: ServerConfig, encoder: PromptEncoder, body: CompletionRequest, version: "LLMEngine"
) -> tuple[list[Prompt], ReplyForm]:
    ids = encode_prompts(encoder, body.prompt, version.manifest.vocab_size, "prompt")
    defaults = sampling_defaults(version.manifest, config)
    constraint = body.constraint
    prompts = [
        _prompt(body, version, defaults, prompt, token_ids, constraint)
        for prompt, token_ids in zip(body.prompt, ids, strict=True)
    ]
    echo = bool(body.echo)

    def write(choice: Choice) -> TextWriter:
        placer = None
        if body.logprobs is not None:
            start = len(choice.prompt.messages[0].content) if echo else 0
            ends = version.manifest.special_tokens.eos_token_ids
            end_ids = frozenset((*ends, *choice.params.stop_token_ids))
            placer = TokenPlacer(version.vocabulary, choice, start, end_ids)
        return TextWriter(choice, version.vocabulary, placer, echo=echo)

    return prompts, ReplyForm(Completion, "text_completion", Completion, "text_completion", write)


def _prompt(
    body: CompletionRequest,
    version: "LLMEngine",
    defaults: SamplingDefaults,
    given: str | list[int],
    token_ids: list[int],
    constraint: StructuredOutput | None,
) -> Prompt:
    params = sampling_params(
        body,
        version.manifest,
        defaults,
        num_prompt_tokens=len(token_ids),
        default_tokens=_DEFAULT_MAX_TOKENS,
        constraint=constraint,
    )
    if body.echo and body.logprobs is not None:
        params = replace(params, prompt_logprobs=body.logprobs)
    if body.num_candidates > body.num_choices and params.logprobs is None:
        params = replace(params, logprobs=0)  # by which the best are chosen
    is_text = isinstance(given, str)
    text = given if isinstance(given, str) else decode_ids(version.tokenizer, given)
    message = Message(role="user", content=text)
    return Prompt(token_ids=token_ids, messages=(message,), params=params, is_text=is_text)


class TextWriter:
    """Writes one answer of a text completion."""

    def __init__(
        self, choice: Choice, vocabulary: Vocabulary, placer: TokenPlacer | None, *, echo: bool
    ) -> None:
        self._choice = choice
        self._vocabulary = vocabulary
        self._echoed = choice.prompt.messages[0].content if echo else ""
        self._placer = placer
        plain = self._part(TEXT_MARK, None, None).to_json()
        self._plain = JsonTemplate(plain, TEXT_MARK_JSON)

    def opening(self) -> list[bytes]:
        """Nothing comes before the text."""
        return []

    def piece(self, output: "RequestOutput") -> list[bytes]:
        """New text, after the echo in the first; nothing for an output that shows none yet."""
        is_first = output is self._choice.outputs[0]
        text = self._echoed + output.text if is_first else output.text
        if self._placer is None:
            return [self._plain.fill(to_json(text))] if text else []
        logprobs = self._logprobs([output])
        is_empty = not text and not (logprobs and logprobs.tokens)
        return [] if is_empty else [self._part(text, logprobs, None).to_json()]

    def closing(self) -> list[bytes]:
        """Why the answer ended."""
        return [self._part("", None, self._choice.finish_reason).to_json()]

    def whole(self) -> TextChoice:
        """The answer at once."""
        choice = self._choice
        text, logprobs = self._echoed + choice.text, self._logprobs(choice.outputs)
        return self._part(text, logprobs, choice.finish_reason)

    def _part(
        self, text: str, logprobs: TextLogprobs | None, reason: FinishReason | None
    ) -> TextChoice:
        return TextChoice(
            text=text, index=self._choice.index, logprobs=logprobs, finish_reason=reason
        )

    def _logprobs(self, outputs: "Sequence[RequestOutput]") -> TextLogprobs | None:
        if self._placer is None:
            return None
        has_prompt = self._choice.params.prompt_logprobs is not None
        tokens: list[PlacedToken] = []
        for output in outputs:
            if has_prompt and output.prompt_logprobs:
                tokens += place_prompt(self._vocabulary, self._choice, output)
            tokens += self._placer.take(output)
        return text_logprobs(self._vocabulary, tokens)


create_completion = endpoint("completions", CompletionRequest, COMPLETIONS, _admit)
