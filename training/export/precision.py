"""Precisions of weights and cache: which ones an export tries, and which one it keeps.

Plain rules over what was measured; nothing here runs a graph.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from everloop.errors import ArtifactError, ConfigError
from everloop.manifest import PrecisionReport
from training.export.architecture import Architecture, Attention
from training.export.config import ExportConfig
from training.export.graph import check_widths
from training.export.nodes import Precision
from training.export.quantize import BLOCK_SIZE

CachePrecision = Literal["fp32", "int8"]

# Speeds that differ by less are called equal: two runs of one graph do, on a busy machine.
_EQUAL_SPEED = 0.1
_EQUAL_LOSS = 0.001


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """Precision of the weights; the block size is None for fp32."""

    precision: Precision
    block_size: int | None = None

    def __str__(self) -> str:
        return self.precision + (f" block {self.block_size}" if self.block_size else "")


FP32 = WeightFormat("fp32")


def wanted_weights(config: ExportConfig, architecture: Architecture) -> list[WeightFormat]:
    """The formats to measure: the one that is asked for, or with `auto` all that the widths allow.

    Not int4 in blocks of 64, unless these are asked for: ONNX Runtime multiplies the last odd row
    of a step by another kernel there, so that an answer depends on what else is in its batch.

    Raises:
        ArtifactError: a width does not divide into the blocks that are asked for.
    """
    size = config.block_size or BLOCK_SIZE
    if config.precision == "fp32":
        return [FP32]
    if config.precision != "auto":
        check_widths(architecture, config.precision, size)
        return [WeightFormat(config.precision, size)]
    every = [FP32, WeightFormat("int8", size), WeightFormat("int4", size)]
    return [chosen for chosen in every if _fits(architecture, chosen)]


def _fits(architecture: Architecture, weights: WeightFormat) -> bool:
    try:
        check_widths(architecture, weights.precision, weights.block_size or 1)
    except ArtifactError:
        return False
    return True


def wanted_caches(config: ExportConfig, architecture: Architecture) -> list[CachePrecision]:
    """The precisions of the cache to measure.

    Who asks for fp32 weights wants the model's own answers; only an explicit int8 changes these.

    Raises:
        ConfigError: the family keeps no cache that could be quantized.
    """
    if isinstance(architecture.body, Attention):
        if config.cache != "auto":
            return [config.cache]
        return ["fp32"] if config.precision == "fp32" else ["fp32", "int8"]
    if config.cache == "int8":
        raise ConfigError(
            f"export.cache: {architecture.family.architecture} keeps a recurrent state and no "
            "cache of keys and values, so it cannot be int8. Set export.cache to fp32 or auto."
        )
    return ["fp32"]


def choose(reports: Sequence[PrecisionReport]) -> PrecisionReport:
    """Pick what the version will be, of at least one that qualifies.

    With speeds: the fastest, for requests with as many tokens of prompt as of answer, by the
    geometric mean over the numbers of rows; of those within a tenth of it the one with the least
    loss; of losses within a thousandth the smallest. Without speeds: the smallest cache.
    """
    qualified = [report for report in reports if report.refusal is None]
    if not qualified[0].tokens_per_second:
        return min(qualified, key=lambda report: report.cache_bytes_per_token)
    fastest = max(map(_speed, qualified))
    equal = [report for report in qualified if _speed(report) >= fastest * (1 - _EQUAL_SPEED)]
    least = min(map(_relative_loss, equal))
    equal = [report for report in equal if _relative_loss(report) <= least * (1 + _EQUAL_LOSS)]
    return min(equal, key=lambda report: (report.weights_bytes, report.cache_bytes_per_token))


def _relative_loss(report: PrecisionReport) -> float:
    """Loss as a multiple of fp32's in the same windows; how many they were differs."""
    return (1 + report.weight_loss_increase) * (1 + report.cache_loss_increase)


def _speed(report: PrecisionReport) -> float:
    """Tokens of answer per second, when each comes with a token of prompt."""
    prompt = 1 / report.prefill_tokens_per_second if report.prefill_tokens_per_second else 0.0
    pairs = [1 / (prompt + 1 / decode) for decode in report.tokens_per_second.values()]
    return math.exp(sum(map(math.log, pairs)) / len(pairs))
