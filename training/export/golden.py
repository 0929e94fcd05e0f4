"""Golden continuations: what a version says, so that every load can prove that it still says it."""

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from everloop.errors import DataError
from everloop.manifest import Golden, GoldenCase
from training.export.session import ReferenceRunner

MIN_CASES = 3
MAX_COMPLETION_TOKENS = 16
# The logits of one graph differ by some 1e-5 between chunkings and processors; a token whose lead
# is within reach of that would make a sound version fail its check elsewhere.
_CLEAR_LEAD = 1e-3


def make_golden(
    session: ort.InferenceSession,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_model_len: int,
    empty_prompt_token_id: int,
) -> Golden:
    """Continue each prompt greedily, past any end token, by the graph itself.

    Each case holds up to 16 tokens: it ends before a token that another machine may see otherwise.

    Args:
        session: the version's own graph, in its own precision.
        tokenizer: of the version.
        prompts: at least three; a long one keeps its end.
        max_model_len: prompt and continuation fit into it.
        empty_prompt_token_id: stands for a prompt without tokens.

    Raises:
        DataError: too few prompts.
    """
    if len(prompts) < MIN_CASES:
        raise DataError(f"golden prompts: expected at least {MIN_CASES}, got {len(prompts)}.")
    runner = ReferenceRunner(session, slots=1, capacity=max_model_len)
    cases = []
    for prompt in prompts:
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids or [empty_prompt_token_id]
        ids = ids[-(max_model_len - MAX_COMPLETION_TOKENS) :]
        completion = greedy(runner, ids, MAX_COMPLETION_TOKENS)
        cases.append(
            GoldenCase(prompt_token_ids=tuple(ids), completion_token_ids=tuple(completion))
        )
    return Golden(cases=tuple(cases))


def greedy(runner: ReferenceRunner, prompt: Sequence[int], max_tokens: int) -> list[int]:
    """Continue a prompt with the likeliest token in slot 0; stop short of a near tie.

    The first token is always given.
    """
    runner.lengths[0] = 0
    completion: list[int] = []
    new_tokens = list(prompt)
    while len(completion) < max_tokens:
        logits = runner.step({0: new_tokens})[0][-1]
        second, first = np.partition(logits, -2)[-2:]
        if completion and first - second < _CLEAR_LEAD:
            break
        new_tokens = [int(np.argmax(logits))]
        completion += new_tokens
    return completion
