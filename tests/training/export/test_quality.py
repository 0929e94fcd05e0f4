import math

from training.export.config import ExportConfig
from training.export.precision import FP32, WeightFormat
from training.export.quality import cache_refusal, weights_refusal

INT4 = WeightFormat("int4", 64)


def test_weights_refusal_gives_the_numbers_and_the_limit() -> None:
    config = ExportConfig(max_int4_loss_increase=0.02)

    assert weights_refusal(config, INT4, 4.0, 4.1) == (
        "int4 block 64 raises the validation loss from 4.0000 to 4.1000 nats per token (+2.50%), "
        "the limit is +2.00% (export.max_int4_loss_increase)"
    )
    assert weights_refusal(config, INT4, 4.0, 4.08) is None
    assert weights_refusal(config, INT4, 4.0, 3.9) is None


def test_weights_refusal_has_a_limit_for_each_precision() -> None:
    config = ExportConfig(max_int4_loss_increase=0.02, max_int8_loss_increase=0.001)

    assert weights_refusal(config, WeightFormat("int8", 32), 4.0, 4.01) is not None
    assert weights_refusal(config, INT4, 4.0, 4.01) is None
    assert weights_refusal(config, FP32, 4.0, 4.0) is None


def test_weights_refusal_refuses_a_loss_that_is_no_number() -> None:
    assert weights_refusal(ExportConfig(), INT4, 4.0, math.nan) is not None


def test_cache_refusal_is_relative_to_the_same_weights() -> None:
    config = ExportConfig(max_int8_cache_loss_increase=0.005)

    assert cache_refusal(config, INT4, 4.1, 4.12) is None
    assert cache_refusal(config, INT4, 4.1, 4.141) == (
        "an int8 cache beside int4 block 64 raises the validation loss from 4.1000 to 4.1410 nats "
        "per token (+1.00%), the limit is +0.50% (export.max_int8_cache_loss_increase)"
    )
