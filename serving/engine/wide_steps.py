"""From how many tokens on a step of a quantized version runs faster in fp32, measured here.

Some processors have instructions for products of 8-bit integers. On others these fall behind fp32
as soon as a matrix is read for enough tokens. Where the two cross depends on the model, too.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from everloop.machine_record import OnnxRuntimeSpeed
from serving.engine.config import EngineConfig
from serving.engine.memory import Memory
from serving.engine.model_runner import ModelRunner
from serving.engine.product_speed import onnxruntime_record
from serving.engine.scheduler import ScheduledRow
from serving.engine.sequence_factory import SequenceFactory

WIDTHS = (64, 32, 16, 8, 4, 2)  # tokens of the steps that are compared
_MARGIN = 1.05  # so much faster must fp32 be: it costs memory, and times are noisy
_ROUNDS = 4
# Rows of the machine's record from which on products decide a step's time, and how many times as
# fast int8 is there on a machine that need not try.
_MANY_ROWS = 32
_HOPELESS = 1.25

Times = tuple[float, float]
"""Seconds of a step in the version's own precision, and in fp32."""

logger = logging.getLogger(__name__)


def switch_point(widths: Sequence[int], measure: Callable[[int], Times]) -> int | None:
    """The least of some numbers of tokens from which on fp32 is faster at every one of them.

    Args:
        widths: descending. The search ends at the first at which fp32 is not faster.
        measure: times a step of so many tokens.

    Returns:
        None if fp32 is not even faster at the most tokens.
    """
    found = None
    for width in widths:
        narrow, wide = measure(width)
        if narrow < wide * _MARGIN:
            break
        found = width
    return found


def may_win(speed: OnnxRuntimeSpeed) -> bool:
    """Whether fp32 products come near to int8 products of many rows on this machine."""
    many = [product for product in speed.products if product.rows >= _MANY_ROWS]
    return any(product.int8_gain < _HOPELESS for product in many)


def set_up_wide_steps(
    runner: ModelRunner, factory: SequenceFactory, config: EngineConfig, memory: Memory
) -> Memory:
    """Measure both graphs of a version and set which steps run the wide one.

    Args:
        runner: of the version; no slot is owned yet.
        factory: makes the steps.
        config: slots, and tokens of a step.
        memory: of the version; without memory for wide steps there are none.

    Returns:
        What the version takes: the wide graph is dropped where no step is faster with it.
    """
    if not memory.wide:
        return memory
    speed = onnxruntime_record().onnxruntime
    if speed is not None and not may_win(speed):
        logger.info("wide steps off version=%s reason=int8 is faster here", runner.manifest.tag)
        return replace(memory, wide=0)
    started = time.monotonic()
    runner.open_wide()
    manifest = runner.manifest
    widest = max(config.max_num_seqs, min(config.max_num_batched_tokens, manifest.max_query_len))
    comparison = Comparison(runner, factory, config.max_num_seqs)
    widths = [width for width in WIDTHS if width <= widest]
    runner.wide_from = switch_point(widths, comparison.measure)
    logger.info(
        "wide steps version=%s from_tokens=%s seconds=%.2f %s",
        manifest.tag,
        runner.wide_from,
        time.monotonic() - started,
        comparison.summary,
    )
    if runner.wide_from is None:
        runner.close_wide()
        return replace(memory, wide=0)
    return memory


class Comparison:
    """Times the same steps of padding with both graphs, which are open.

    Args:
        runner: of the version; `wide_from` is left as it happens to be.
        factory: makes the padding.
        num_slots: of the cache.
    """

    def __init__(self, runner: ModelRunner, factory: SequenceFactory, num_slots: int) -> None:
        self._runner = runner
        self._factory = factory
        self._num_slots = num_slots
        self._ratios: dict[int, float] = {}

    @property
    def summary(self) -> str:
        """How many times as fast fp32 was, by tokens."""
        return " ".join(f"{width}:{ratio:.2f}" for width, ratio in sorted(self._ratios.items()))

    def measure(self, width: int) -> Times:
        """Time a step of so many tokens, each graph in turn; the best of some rounds."""
        rows = self._rows(width)
        narrow = wide = math.inf
        for number in range(_ROUNDS):
            for is_wide in (False, True):
                seconds = self._time(rows, is_wide=is_wide)
                if not number:
                    continue  # the first run of a shape allocates
                if is_wide:
                    wide = min(wide, seconds)
                else:
                    narrow = min(narrow, seconds)
        self._ratios[width] = narrow / wide
        return narrow, wide

    def _rows(self, width: int) -> list[ScheduledRow]:
        """A token of each of as many answers, or a chunk of a prompt where slots are too few."""
        each = [1] * width if width <= self._num_slots else [width]
        probes = [self._factory.make_probe(slot, count) for slot, count in enumerate(each)]
        return [ScheduledRow(probe, probe.token_ids, 1) for probe in probes]

    def _time(self, rows: list[ScheduledRow], *, is_wide: bool) -> float:
        self._runner.wide_from = 1 if is_wide else None
        started = time.monotonic()
        self._runner.run(rows)
        return time.monotonic() - started
