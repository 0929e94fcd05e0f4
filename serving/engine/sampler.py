"""The next token of one sequence, from its row of logits.

It depends on the row, the request's parameters, its seed and the token's position alone, so a
request's tokens do not depend on its batch mates.
"""

import math

import numpy as np

from everloop.errors import DataError, EngineError
from serving.engine.distribution import Logits, draw
from serving.engine.logprobs import token_logprobs
from serving.engine.sequence import Sequence, TokenLogprobs


def choose(logits: Logits, sequence: Sequence, position: int) -> tuple[int, TokenLogprobs | None]:
    """Choose one token.

    Args:
        logits: (V,), of no use afterwards.
        sequence: whose token it is; its logits processor knows all tokens before.
        position: index of the token in the completion.

    Returns:
        The token, and its logprobs if the request wants them.

    Raises:
        EngineError: there is no largest logit (not a number).
        DataError: the request's parameters leave no token, or its grammar cannot be followed.
    """
    params = sequence.params
    likeliest = int(logits.argmax())
    if not math.isfinite(logits[likeliest]):
        raise EngineError(f"the model's logits for request {sequence.seq_id} are not finite.")
    if params.logprobs is None:
        return _choose(logits, likeliest, sequence, position), None
    is_kept = params.is_greedy and sequence.logits_processor is None
    raw = logits if is_kept else logits.copy()
    token = _choose(logits, likeliest, sequence, position)
    return token, token_logprobs(raw, token, params.logprobs)


def _choose(logits: Logits, likeliest: int, sequence: Sequence, position: int) -> int:
    params, processor = sequence.params, sequence.logits_processor
    tokens = None
    if processor is not None:
        tokens = processor.apply(logits)
        if tokens is not None:
            logits = logits[tokens]
        likeliest = int(logits.argmax()) if logits.size else 0
        if not logits.size or logits[likeliest] == -np.inf:
            raise DataError(f"the parameters of request {sequence.seq_id} allow no token.")
    token = likeliest
    if not params.is_greedy:
        token = draw(logits, logits[likeliest], params, sequence.seed, position)
    return token if tokens is None else int(tokens[token])
