"""Whether a token's logits depend on what is computed beside it, to the last bit.

That depends on the kernels which ONNX Runtime has for this processor, these block sizes and this
cache. Where weights are quantized, the activations are rounded, so that a difference in the last
bit grows into one that can move a token: it is measured when a version is loaded, and holds for
this version on this machine.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serving.engine.config import EngineConfig
from serving.engine.model_runner import ModelRunner
from serving.engine.scheduler import ScheduledRow
from serving.engine.sequence_factory import SequenceFactory

_TOKENS = 8
_PROMPT = 5  # tokens of a row; an odd number leaves kernels a row that is not in a pair
_CROWDS = (2, 3, 8, 17)  # rows beside which, and as which, a row is computed
_WIDTH = 9  # of the widest chunk beside decoding rows


def is_batch_invariant(runner: ModelRunner, factory: SequenceFactory, config: EngineConfig) -> bool:
    """Compare rows alone with the same rows in random crowds, in slots that nobody owns.

    Args:
        runner: of the version.
        factory: makes the sequences.
        config: slots, and tokens of a step.

    Returns:
        Whether prompts, then single tokens, then single tokens beside chunks gave logits that are
        equal to the last bit in every crowd. False is proof; true is what these crowds show.
    """
    if runner.wide_from is not None:
        return False  # company may make a step a wide one
    random = np.random.default_rng(0)
    widest = min(_WIDTH, runner.manifest.max_query_len)
    first = min(_PROMPT, widest)
    num_slots, budget = config.max_num_seqs, config.max_num_batched_tokens
    room = min(num_slots, budget // first)
    for crowd in sorted({min(crowd, room) for crowd in _CROWDS}):
        if crowd < 2:
            continue
        tokens = random.integers(0, runner.manifest.vocab_size, (crowd, first + widest)).tolist()
        widths = [1] * crowd
        widths[int(random.integers(crowd))] = min(widest, budget - crowd + 1)
        steps = ([first] * crowd, [1] * crowd, widths)
        slots = np.sort(random.choice(num_slots, crowd, replace=False)).tolist()
        watched = {0, crowd - 1, int(random.integers(crowd))}
        together = _run(runner, factory, slots, tokens, steps)
        for row in watched:
            own = [[step[row]] for step in steps]
            alone = _run(runner, factory, [slots[row]], [tokens[row]], own)
            found = [logits[row] for logits in together]
            if not all(
                np.array_equal(one[0], many) for one, many in zip(alone, found, strict=True)
            ):
                return False
    return True


def _run(
    runner: ModelRunner,
    factory: SequenceFactory,
    slots: list[int],
    tokens: list[list[int]],
    steps: Sequence[list[int]],
) -> list[NDArray[np.float32]]:
    """Give the logits of each row's last token after every step, (rows, V)."""
    sequences = [
        factory.make_probe(slot, len(row)) for slot, row in zip(slots, tokens, strict=True)
    ]
    results = []
    for widths in steps:
        rows = []
        for sequence, row, width in zip(sequences, tokens, widths, strict=True):
            start = sequence.num_computed_tokens
            rows.append(ScheduledRow(sequence, row[start : start + width], 1))
        results.append(runner.run(rows).copy())
        for sequence, width in zip(sequences, widths, strict=True):
            sequence.num_computed_tokens += width
    return results


def is_exact_in_chunks(runner: ModelRunner, factory: SequenceFactory, config: EngineConfig) -> bool:
    """Run some tokens at once and one by one, in a slot that nobody owns, with every graph.

    Args:
        runner: of the version.
        factory: makes the sequence.
        config: tokens of a step.

    Returns:
        Whether all logits are equal to the last bit.
    """
    wide_from = runner.wide_from
    try:
        for lowest in (None,) if wide_from is None else (None, 1):
            runner.wide_from = lowest
            if not _is_exact(runner, factory, config):
                return False
    finally:
        runner.wide_from = wide_from
    return True


def _is_exact(runner: ModelRunner, factory: SequenceFactory, config: EngineConfig) -> bool:
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
