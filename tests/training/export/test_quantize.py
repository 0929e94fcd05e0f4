import numpy as np

from training.export.quantize import quantize


def test_quantize_puts_the_largest_value_on_the_end_of_the_range() -> None:
    block = np.zeros((1, 32), np.float32)
    block[0, :2] = [1.0, -0.5]

    matrix = quantize(block)

    assert matrix.values[0, 0, :3].tolist() == [0, 192, 128]
    assert matrix.scales.tolist() == [[-1 / 128]]
    assert matrix.dequantize()[0, :3].tolist() == [1.0, -0.5, 0.0]


def test_quantize_keeps_a_block_of_zeros() -> None:
    matrix = quantize(np.zeros((2, 64), np.float32))

    assert matrix.values.shape == (2, 2, 32)
    assert matrix.scales.shape == (2, 2)
    assert not matrix.dequantize().any()


def test_quantize_errs_by_at_most_one_step() -> None:
    values = np.random.default_rng(0).normal(size=(16, 96)).astype(np.float32)

    matrix = quantize(values)

    # Half a step, and one at the far end: the range is -128 to 127.
    step = np.abs(matrix.scales).repeat(32, axis=1)
    assert (np.abs(matrix.dequantize() - values) <= step * 1.0001).all()
    assert np.abs(matrix.dequantize() - values).mean() < 0.006
