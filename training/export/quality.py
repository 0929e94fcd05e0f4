"""What a graph must prove before it becomes a version: that it agrees with torch, and its loss."""

from pathlib import Path

import onnxruntime as ort

from everloop.errors import RefusedError
from everloop.manifest import ParityReport
from training.export.config import ExportConfig
from training.export.parity import measure_parity
from training.export.precision import WeightFormat
from training.pretrained import load_model


def check_parity(
    checkpoint: Path, session: ort.InferenceSession, max_model_len: int, config: ExportConfig
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
    )
    if not parity.ratio <= config.max_parity_ratio:  # true for a ratio that is no number
        raise RefusedError(
            f"{checkpoint}: the fp32 graph is {parity.graph_distance:.2e} away from float64 in "
            f"the logits of a position, where torch's float32 may be {parity.torch_distance:.2e} "
            f"away: {parity.ratio:.1f} times as far, the limit is {config.max_parity_ratio:g} "
            "(export.max_parity_ratio). The graph does not compute what the checkpoint does."
        )
    return parity


def weights_refusal(
    config: ExportConfig, weights: WeightFormat, loss_fp32: float, loss: float
) -> str | None:
    """Why these weights lose too much against fp32, both with an fp32 cache; None if they do not.

    Args:
        config: holds the limits.
        weights: that were measured.
        loss_fp32: nats per token of fp32.
        loss: of these weights.
    """
    if weights.precision == "fp32":
        return None
    key = f"max_{weights.precision}_loss_increase"
    return _refusal(str(weights), loss_fp32, loss, getattr(config, key), key)


def cache_refusal(
    config: ExportConfig, weights: WeightFormat, loss: float, loss_int8: float
) -> str | None:
    """Why an int8 cache loses too much against an fp32 cache of the same weights; None if not."""
    key = "max_int8_cache_loss_increase"
    return _refusal(f"an int8 cache beside {weights}", loss, loss_int8, getattr(config, key), key)


def _refusal(what: str, before: float, after: float, limit: float, key: str) -> str | None:
    if after <= before * (1 + limit):  # false for a loss that is no number
        return None
    return (
        f"{what} raises the validation loss from {before:.4f} to {after:.4f} nats per token "
        f"({after / before - 1:+.2%}), the limit is {limit:+.2%} (export.{key})"
    )
