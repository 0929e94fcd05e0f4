"""The next token of one sequence, from its row of logits.

It depends on the row, the request's parameters, its seed and the token's position alone, so a
request's tokens do not depend on its batch mates.
"""

import numpy as np

from everloop.errors import EngineError
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
        EngineError: there is no largest logit (not a number), or no token is allowed.
    """
    params, processor = sequence.params, sequence.logits_processor
    token = int(logits.argmax())
    peak = logits[token]
    if not -np.inf < peak < np.inf:
        raise EngineError(f"the model's logits for request {sequence.seq_id} are not finite.")
    raw = logits if params.logprobs is None else logits.copy()
    if processor is not None:
        processor.apply(logits)
        token = int(logits.argmax())
        peak = logits[token]
        if peak == -np.inf:
            raise EngineError(f"the parameters of request {sequence.seq_id} allow no token.")
    if not params.is_greedy:
        token = draw(logits, peak, params, sequence.seed, position)
    if params.logprobs is None:
        return token, None
    return token, token_logprobs(raw, token, params.logprobs)
