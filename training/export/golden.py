"""Golden continuations: what a version says, so that every load can prove that it still says it."""

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from everloop.errors import DataError
from everloop.manifest import Golden, GoldenCase
from training.export.session import ReferenceRunner

MIN_CASES = 3
COMPLETION_TOKENS = 16


def make_golden(
    session: ort.InferenceSession,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_model_len: int,
    bos_token_id: int,
) -> Golden:
    """Continue each prompt greedily, past any end token, by the graph itself.

    Args:
        session: the version's own graph, in its own precision.
        tokenizer: of the version.
        prompts: at least three; a long one keeps its end, an empty one becomes the bos token.
        max_model_len: prompt and continuation fit into it.
        bos_token_id: see prompts.

    Raises:
        DataError: too few prompts.
    """
    if len(prompts) < MIN_CASES:
        raise DataError(f"golden prompts: expected at least {MIN_CASES}, got {len(prompts)}.")
    runner = ReferenceRunner(session, slots=1, capacity=2 * max_model_len)
    cases = []
    for prompt in prompts:
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids or [bos_token_id]
        ids = ids[-(max_model_len - COMPLETION_TOKENS) :]
        completion = greedy(runner, ids, COMPLETION_TOKENS)
        cases.append(
            GoldenCase(prompt_token_ids=tuple(ids), completion_token_ids=tuple(completion))
        )
    return Golden(cases=tuple(cases))


def greedy(runner: ReferenceRunner, prompt: Sequence[int], max_tokens: int) -> list[int]:
    """Continue a prompt with the most likely token, `max_tokens` times, in slot 0."""
    runner.lengths[0] = 0
    completion: list[int] = []
    new_tokens = list(prompt)
    while len(completion) < max_tokens:
        logits = runner.step({0: new_tokens})[0]
        new_tokens = [int(np.argmax(logits[-1]))]
        completion += new_tokens
    return completion
