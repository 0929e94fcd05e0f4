import numpy as np
import pytest

from training.export.gptq import Moments, quantize_by_moments
from training.export.quantize import BlockFormat, quantize

INT4 = BlockFormat(4, 32)


def correlated_inputs(count: int, width: int) -> np.ndarray:
    """Inputs as a model has them: few directions hold most of their length."""
    generator = np.random.default_rng(3)
    mixing = generator.normal(size=(width, width)) * 0.9 ** np.arange(width)[:, None]
    return (generator.normal(size=(count, width)) @ mixing).astype(np.float32)


@pytest.fixture
def matrix() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(48, 128)).astype(np.float32)


def output_error(matrix: np.ndarray, stored: np.ndarray, inputs: np.ndarray) -> float:
    return float((((stored - matrix) @ inputs.T) ** 2).sum() / ((matrix @ inputs.T) ** 2).sum())


@pytest.mark.parametrize("block_size", [32, 64])
def test_quantize_by_moments_changes_products_less(matrix: np.ndarray, block_size: int) -> None:
    block_format = BlockFormat(4, block_size)
    seen, unseen = np.split(correlated_inputs(1024, 128), 2)

    fitted = quantize_by_moments(matrix, Moments(seen.T @ seen, 512), block_format)

    plain = output_error(matrix, quantize(matrix, block_format).dequantize(), unseen)
    assert output_error(matrix, fitted.dequantize(), unseen) < 0.2 * plain


def test_quantize_by_moments_of_few_tokens_is_no_worse_than_rounding(matrix: np.ndarray) -> None:
    inputs = correlated_inputs(600, 128)
    seen, unseen = inputs[:8], inputs[8:]

    fitted = quantize_by_moments(matrix, Moments(seen.T @ seen, 8), INT4)

    plain = output_error(matrix, quantize(matrix, INT4).dequantize(), unseen)
    assert output_error(matrix, fitted.dequantize(), unseen) < plain


def test_quantize_by_moments_of_inputs_without_correlation_rounds_each_value(
    matrix: np.ndarray,
) -> None:
    fitted = quantize_by_moments(matrix, Moments(np.eye(128, dtype=np.float32) * 7, 512), INT4)
    plain = quantize(matrix, INT4)

    assert np.array_equal(fitted.values, plain.values)
    np.testing.assert_array_equal(fitted.scales, plain.scales)


def test_quantize_by_moments_takes_inputs_that_are_always_zero(matrix: np.ndarray) -> None:
    inputs = correlated_inputs(64, 128)
    inputs[:, 40:90] = 0
    matrix[5, :32] = 0  # a block without a scale

    stored = quantize_by_moments(matrix, Moments(inputs.T @ inputs, 64), INT4).dequantize()

    assert np.isfinite(stored).all()
    plain = output_error(matrix, quantize(matrix, INT4).dequantize(), inputs)
    assert output_error(matrix, stored, inputs) < 0.6 * plain
    silent = quantize_by_moments(matrix, Moments(np.zeros((128, 128), np.float32), 64), INT4)
    assert np.array_equal(silent.dequantize(), quantize(matrix, INT4).dequantize())
