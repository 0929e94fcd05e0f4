"""From the fields of a request to the engine's terms, and the seeds of several answers."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from everloop.manifest import Manifest
from everloop.sampling_defaults import SamplingDefaults
from serving.engine.sampling_params import SamplingParams, StructuredOutput
from serving.openai_api.config import ServerConfig
from serving.openai_api.context_limits import too_long
from serving.openai_api.errors import ApiError
from serving.openai_api.generation_request import GenerationRequest

# Sampling with a share of zero means the most probable token; the engine wants a positive share.
_SMALLEST_TOP_P = 1e-6


def sampling_defaults(manifest: Manifest, config: ServerConfig) -> SamplingDefaults:
    """How a version samples where a request sets neither temperature nor top_p."""
    return manifest.sampling.with_temperature(config.default_temperature)


def sampling_params(
    body: GenerationRequest,
    manifest: Manifest,
    defaults: SamplingDefaults,
    *,
    num_prompt_tokens: int,
    default_tokens: int,
    constraint: StructuredOutput | None,
) -> SamplingParams:
    """Put the request's wishes and the defaults into the engine's terms.

    Args:
        body: the request.
        manifest: of the version that answers.
        defaults: where the request sets neither temperature nor top_p.
        num_prompt_tokens: length of the prompt.
        default_tokens: length of the answer if the request names none, or as much as fits.
        constraint: what the answer must be.

    Raises:
        ApiError: prompt and answer do not fit (context_length_exceeded), or a token id is none.
    """
    max_tokens = _max_tokens(body, manifest.max_model_len, num_prompt_tokens, default_tokens)
    min_tokens = body.min_tokens or 0
    if min_tokens > max_tokens:
        raise ApiError(
            f"min_tokens ({min_tokens}) is more than the answer may have ({max_tokens}).",
            param="min_tokens",
        )
    bias = {int(token_id): value for token_id, value in (body.logit_bias or {}).items()}
    _check_tokens("logit_bias", bias, manifest.vocab_size)
    _check_tokens("stop_token_ids", body.stop_token_ids or (), manifest.vocab_size)
    # Who sets one of the two knows what it is for, and gets the API's own value for the other.
    is_plain = body.temperature is None and body.top_p is None
    brought = defaults if is_plain else SamplingDefaults()
    top_k = brought.top_k if body.top_k is None else body.top_k
    return SamplingParams(
        max_tokens=max(1, max_tokens),
        min_tokens=min_tokens,
        temperature=_or(body.temperature, brought.temperature),
        top_p=max(_or(body.top_p, brought.top_p), _SMALLEST_TOP_P),
        top_k=top_k if top_k is not None and top_k > 0 else None,
        min_p=_or(body.min_p, brought.min_p),
        frequency_penalty=_or(body.frequency_penalty, 0.0),
        presence_penalty=_or(body.presence_penalty, 0.0),
        repetition_penalty=_or(body.repetition_penalty, brought.repetition_penalty),
        logit_bias=bias,
        seed=body.seed,
        stop=tuple(body.stop or ()),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        ignore_eos=bool(body.ignore_eos),
        structured=constraint,
        logprobs=body.num_logprobs,
    )


def seeded(params: SamplingParams, index: int) -> SamplingParams:
    """The parameters of one of several answers: the first has the seed itself.

    So one answer is the first of many, and a prompt among several gets what it gets alone.
    """
    if params.seed is None or index == 0:
        return params
    digest = hashlib.sha256(f"{params.seed}:{index}".encode()).digest()
    return replace(params, seed=int.from_bytes(digest[:8], "big", signed=True))


def _max_tokens(
    body: GenerationRequest, max_model_len: int, num_prompt_tokens: int, default_tokens: int
) -> int:
    room = max_model_len - num_prompt_tokens
    wanted = body.wanted_tokens
    max_tokens = min(default_tokens, room) if wanted is None else wanted
    if room < 1 or max_tokens > room:
        answer = f" and the answer up to {wanted}" if wanted else ""
        found = f"the prompt has {num_prompt_tokens} tokens{answer}"
        raise too_long(max_model_len, found, body.prompt_field)
    return max_tokens


def _check_tokens(name: str, token_ids: Iterable[int], vocab_size: int) -> None:
    for token_id in token_ids:
        if token_id >= vocab_size:
            raise ApiError(
                f"{name}: token id {token_id} is not in the vocabulary (0 to {vocab_size - 1}).",
                param=name,
            )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
