"""What a graph must prove before it becomes a version.

The fp32 graph agrees with torch; every other precision keeps the loss and stays near fp32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort
from rich.progress import Progress

from everloop.errors import RefusedError
from everloop.manifest import ParityReport
from training.export.comparison import ComparedGraph
from training.export.config import ExportConfig
from training.export.divergence import Floats
from training.export.parity import measure_parity
from training.export.precision import WeightFormat
from training.pretrained import load_model


def check_parity(
    checkpoint: Path,
    session: ort.InferenceSession,
    max_model_len: int,
    config: ExportConfig,
    progress: Progress | None = None,
) -> ParityReport:
    """Compare the fp32 graph with torch.

    Raises:
        RefusedError: it is further from float64 than float32 explains.
    """
    parity = measure_parity(
        load_model(checkpoint, attn_implementation="eager"),
        session,
        max_model_len=max_model_len,
        max_query_len=config.max_query_len,
        progress=progress,
    )
    if not parity.ratio <= config.max_parity_ratio:  # true for a ratio that is no number
        raise RefusedError(
            f"{checkpoint}: the fp32 graph is {parity.graph_distance:.2e} away from float64 in "
            f"the logits of a position, where torch's float32 may be {parity.torch_distance:.2e} "
            f"away: {parity.ratio:.1f} times as far, the limit is {config.max_parity_ratio:g} "
            "(export.max_parity_ratio). The graph does not compute what the checkpoint does."
        )
    return parity


@dataclass(frozen=True, slots=True)
class Limit:
    """What a precision must keep.

    Attributes:
        excess: how far each window lies above the limit, [N]; their mean must not be above zero.
        refusal: what is said where it is.
    """

    excess: Floats
    refusal: str


def weights_limits(
    config: ExportConfig, weights: WeightFormat, exact: Floats, compared: ComparedGraph
) -> list[Limit]:
    """What quantized weights must keep against fp32, both with an fp32 cache.

    Args:
        config: holds the limits.
        weights: that were measured.
        exact: losses of fp32 in the windows that `compared` has read, nats per token.
        compared: the graph of the weights.
    """
    key = f"max_{weights.precision}_loss_increase"
    return [
        _loss_limit(str(weights), exact, compared.losses, getattr(config, key), key),
        *_limits_to_fp32(str(weights), config, compared),
    ]


def cache_limits(
    config: ExportConfig, weights: WeightFormat, plain: Floats, compared: ComparedGraph
) -> list[Limit]:
    """What an int8 cache must keep: the loss of the same weights, and the nearness to fp32.

    Args:
        config: holds the limits.
        weights: beside the cache.
        plain: losses of these weights with an fp32 cache, in the windows that `compared` has read.
        compared: the graph with the int8 cache.
    """
    what, key = f"an int8 cache beside {weights}", "max_int8_cache_loss_increase"
    return [
        _loss_limit(what, plain, compared.losses, getattr(config, key), key),
        *_limits_to_fp32(what, config, compared),
    ]


def refusal(limits: Sequence[Limit]) -> str | None:
    """All limits that are exceeded, in one sentence; None if none is."""
    exceeded = [limit.refusal for limit in limits if not limit.excess.mean() <= 0]
    return "; ".join(exceeded) or None


def _loss_limit(what: str, before: Floats, after: Floats, limit: float, key: str) -> Limit:
    old, new = float(before.mean()), float(after.mean())
    return Limit(
        after - before * (1 + limit),
        f"{what} raises the validation loss from {old:.4f} to {new:.4f} nats per token "
        f"({new / old - 1:+.2%}), the limit is {limit:+.2%} (export.{key})",
    )


def _limits_to_fp32(what: str, config: ExportConfig, compared: ComparedGraph) -> list[Limit]:
    divergence, agreement = compared.divergences.mean(axis=1), compared.agreements
    return [
        Limit(
            divergence - config.max_kl,
            f"{what} has a mean KL of {divergence.mean():.4f} nats per token to fp32, the limit is "
            f"{config.max_kl:g} (export.max_kl)",
        ),
        Limit(
            config.min_top_1_agreement - agreement,
            f"{what} agrees with fp32 on {agreement.mean():.1%} of the likeliest tokens, the least "
            f"is {config.min_top_1_agreement:.1%} (export.min_top_1_agreement)",
        ),
    ]
