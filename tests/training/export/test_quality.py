import math
from types import SimpleNamespace

import numpy as np
import pytest

from training.export.config import ExportConfig
from training.export.precision import WeightFormat
from training.export.quality import Limit, cache_limits, refusal, weights_limits

INT4 = WeightFormat("int4", 64)
EXACT = np.array([3.0, 5.0])


def compared(
    losses: tuple[float, float], kl: float = 0.0, agreement: float = 1.0
) -> SimpleNamespace:
    """What is known of a graph after two windows of three tokens."""
    return SimpleNamespace(
        losses=np.array(losses),
        divergences=np.full((2, 3), kl),
        agreements=np.full(2, agreement),
    )


def test_weights_give_the_numbers_and_the_limit_of_each_refusal() -> None:
    config = ExportConfig(max_int4_loss_increase=0.02, max_kl=0.02, min_top_1_agreement=0.9)

    limits = weights_limits(config, INT4, EXACT, compared((3.1, 5.1), 0.27, 0.708))

    assert refusal(limits) == (
        "int4 block 64 raises the validation loss from 4.0000 to 4.1000 nats per token (+2.50%), "
        "the limit is +2.00% (export.max_int4_loss_increase); int4 block 64 has a mean KL of "
        "0.2700 nats per token to fp32, the limit is 0.02 (export.max_kl); int4 block 64 agrees "
        "with fp32 on 70.8% of the likeliest tokens, the least is 90.0% "
        "(export.min_top_1_agreement)"
    )


@pytest.mark.parametrize(
    ("kl", "agreement", "key"),
    [(0.019, 0.91, None), (0.021, 0.91, "max_kl"), (0.019, 0.89, "min_top_1_agreement")],
)
def test_weights_with_the_loss_of_fp32_are_refused_for_what_they_say(
    kl: float, agreement: float, key: str | None
) -> None:
    config = ExportConfig(max_kl=0.02, min_top_1_agreement=0.9)

    found = refusal(weights_limits(config, INT4, EXACT, compared((3.0, 5.0), kl, agreement)))

    assert (found is None) if key is None else str(found).endswith(f"(export.{key})")


def test_weights_have_a_limit_of_the_loss_for_each_precision() -> None:
    config = ExportConfig(max_int4_loss_increase=0.02, max_int8_loss_increase=0.001)

    def found(weights: WeightFormat) -> str | None:
        return refusal(weights_limits(config, weights, EXACT, compared((3.01, 5.01))))

    assert found(INT4) is None
    assert "max_int8_loss_increase" in str(found(WeightFormat("int8", 32)))


def test_excesses_are_those_of_each_window() -> None:
    config = ExportConfig(max_int4_loss_increase=0.1, max_kl=0.02, min_top_1_agreement=0.9)

    limits = weights_limits(config, INT4, EXACT, compared((3.5, 5.0), 0.05, 0.85))

    for limit, expected in zip(limits, [(0.2, -0.5), (0.03, 0.03), (0.05, 0.05)], strict=True):
        np.testing.assert_allclose(limit.excess, expected)


def test_cache_is_judged_by_the_loss_of_the_same_weights() -> None:
    config = ExportConfig(max_int8_cache_loss_increase=0.005)
    plain = np.array([4.1, 4.1])

    assert refusal(cache_limits(config, INT4, plain, compared((4.1, 4.14)))) is None
    assert refusal(cache_limits(config, INT4, plain, compared((4.141, 4.141)))) == (
        "an int8 cache beside int4 block 64 raises the validation loss from 4.1000 to 4.1410 nats "
        "per token (+1.00%), the limit is +0.50% (export.max_int8_cache_loss_increase)"
    )


def test_a_mean_that_is_no_number_is_refused() -> None:
    assert refusal([Limit(np.array([math.nan, -1.0]), "broken")]) == "broken"
    assert refusal([Limit(np.array([-1.0, -1.0]), "sound")]) is None
