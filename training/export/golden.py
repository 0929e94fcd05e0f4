"""Golden continuations: what a version says, so that every load can prove that it still says it.

A token counts where it leads clearly. How much lead is clear is measured: quantized products round
their activations, on another processor or in another batch not all in the same direction, and a
token that leads by less than this moves the logits may come out otherwise in a sound version.
"""

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from everloop.errors import DataError
from everloop.manifest import Golden, GoldenCase
from training.export.session import ReferenceRunner

MIN_CASES = 3
MAX_COMPLETION_TOKENS = 16
_MAX_PROMPT_TOKENS = 256  # each holds logits over the whole vocabulary
# The logits of an fp32 graph differ by some 1e-5 between batches and processors.
_LEAST_CLEAR_LEAD = 1e-3


def make_golden(
    session: ort.InferenceSession,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    wide: ort.InferenceSession | None,
    max_model_len: int,
    empty_prompt_token_id: int,
) -> Golden:
    """Continue each prompt greedily by 16 tokens, past any end token, by the graph itself.

    Args:
        session: the version's own graph, in its own precision.
        tokenizer: of the version.
        prompts: at least three; a long one keeps its end.
        wide: the version's graph with products in fp32; None when it rounds no activations.
        max_model_len: prompt and continuation fit into it.
        empty_prompt_token_id: stands for a prompt without tokens.

    Raises:
        DataError: too few prompts.
    """
    if len(prompts) < MIN_CASES:
        raise DataError(f"golden prompts: expected at least {MIN_CASES}, got {len(prompts)}.")
    longest = min(_MAX_PROMPT_TOKENS, max_model_len - MAX_COMPLETION_TOKENS)
    runner = ReferenceRunner(session, slots=1, capacity=max_model_len)
    cases, clear_lead = [], _LEAST_CLEAR_LEAD
    for prompt in prompts:
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids or [empty_prompt_token_id]
        ids = ids[-longest:]
        logits = greedy(runner, ids, MAX_COMPLETION_TOKENS)
        completion = logits.argmax(axis=-1).tolist()
        for other in (session, wide):
            if other is not None:
                again = _at_once(other, [*ids, *completion[:-1]])[-len(completion) :]
                clear_lead = max(clear_lead, float(np.abs(again - logits).max()))
        best = np.partition(logits, -2, axis=-1)[:, -2:]
        cases.append(
            GoldenCase(
                prompt_token_ids=tuple(ids),
                completion_token_ids=tuple(completion),
                leads=tuple((best[:, 1] - best[:, 0]).tolist()),
            )
        )
    return Golden(cases=tuple(cases), clear_lead=clear_lead)


def greedy(runner: ReferenceRunner, prompt: Sequence[int], max_tokens: int) -> np.ndarray:
    """Continue a prompt in slot 0 by its likeliest tokens; give the logits of each, [tokens, V]."""
    runner.lengths[0] = 0
    logits: list[np.ndarray] = []
    new_tokens = list(prompt)
    while len(logits) < max_tokens:
        logits.append(runner.step({0: new_tokens})[0][-1])
        new_tokens = [int(logits[-1].argmax())]
    return np.stack(logits)


def _at_once(session: ort.InferenceSession, tokens: list[int]) -> np.ndarray:
    runner = ReferenceRunner(session, slots=1, capacity=len(tokens))
    return runner.step({0: tokens})[0]
