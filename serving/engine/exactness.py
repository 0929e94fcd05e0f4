"""Whether tokens that are computed together give the very logits that they give one by one.

That depends on the kernels which ONNX Runtime has for this processor, these block sizes and this
cache. Where weights are quantized, the activations are rounded, so that a difference in the last
bit grows into one that can move a token: there it is measured instead of believed.
"""

import numpy as np

from serving.engine.config import EngineConfig
from serving.engine.model_runner import ModelRunner
from serving.engine.scheduler import ScheduledRow
from serving.engine.sequence_factory import SequenceFactory

_TOKENS = 8


def is_exact_in_chunks(runner: ModelRunner, factory: SequenceFactory, config: EngineConfig) -> bool:
    """Run some tokens at once and one by one, in a slot that nobody owns.

    Args:
        runner: of the version.
        factory: makes the sequence.
        config: tokens of a step.

    Returns:
        Whether all logits are equal to the last bit.
    """
    count = min(_TOKENS, config.max_num_batched_tokens, runner.manifest.max_query_len)
    token_ids = np.linspace(0, runner.manifest.vocab_size - 1, count).astype(int).tolist()
    sequence = factory.make_probe(0, count)
    together = runner.run([ScheduledRow(sequence, token_ids, count)]).copy()
    for place, token_id in enumerate(token_ids):
        sequence.num_computed_tokens = place
        alone = runner.run([ScheduledRow(sequence, [token_id], 1)])
        if not np.array_equal(alone[0], together[place]):
            return False
    return True
