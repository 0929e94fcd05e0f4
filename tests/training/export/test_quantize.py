import numpy as np
import pytest

from training.export.quantize import BlockFormat, quantize

INT8 = BlockFormat(8, 32)


def random_matrix(rows: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)


def round_to_nearest(matrix: np.ndarray, block_size: int) -> np.ndarray:
    """The plain way in 4 bits: the largest value of a block on -8, all others to the nearest."""
    blocks = matrix.reshape(-1, block_size)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    scale = largest / -8
    return (np.clip(np.rint(blocks / scale), -8, 7) * scale).reshape(matrix.shape)


def test_quantize_puts_the_largest_value_on_the_end_of_the_range() -> None:
    block = np.zeros((1, 32), np.float32)
    block[0, :2] = [1.0, -0.5]

    matrix = quantize(block, INT8)

    assert matrix.values[0, 0, :3].tolist() == [0, 192, 128]
    assert matrix.scales.tolist() == [[-1 / 128]]
    assert matrix.dequantize()[0, :3].tolist() == [1.0, -0.5, 0.0]


def test_quantize_packs_two_values_of_4_bits_into_a_byte() -> None:
    block = np.zeros((1, 32), np.float32)
    block[0, :4] = [8.0, -7.0, 3.0, 1.0]

    matrix = quantize(block, BlockFormat(4, 32))

    # The scale is -1: 8 is stored as 0, -7 as 15, 3 as 5, 1 as 7, and 0 as 8; the first is low.
    assert matrix.scales.tolist() == [[-1.0]]
    assert matrix.values.shape == (1, 1, 16)
    assert matrix.values[0, 0, :3].tolist() == [0xF0, 0x75, 0x88]
    assert matrix.dequantize()[0, :5].tolist() == [8.0, -7.0, 3.0, 1.0, 0.0]


@pytest.mark.parametrize("bits", [4, 8])
def test_quantize_keeps_a_block_of_zeros(bits: int) -> None:
    matrix = quantize(np.zeros((2, 64), np.float32), BlockFormat(bits, 32))

    assert matrix.values.shape == (2, 2, 4 * bits)
    assert matrix.scales.shape == (2, 2)
    assert not matrix.dequantize().any()


def test_quantize_to_8_bits_errs_by_at_most_one_step() -> None:
    values = random_matrix(16, 96)

    matrix = quantize(values, INT8)

    # Half a step, and one at the far end: the range is -128 to 127.
    step = np.abs(matrix.scales).repeat(32, axis=1)
    assert (np.abs(matrix.dequantize() - values) <= step * 1.0001).all()
    assert np.abs(matrix.dequantize() - values).mean() < 0.006


@pytest.mark.parametrize("block_size", [32, 64])
def test_quantize_to_4_bits_errs_less_than_rounding_in_every_block(block_size: int) -> None:
    values = random_matrix(16, 192)

    found = ((quantize(values, BlockFormat(4, block_size)).dequantize() - values) ** 2).reshape(
        -1, block_size
    )
    plain = ((round_to_nearest(values, block_size) - values) ** 2).reshape(-1, block_size)

    assert (found.sum(axis=1) <= plain.sum(axis=1) * 1.0001).all()
    assert found.sum() < 0.92 * plain.sum()


def test_quantize_to_8_bits_errs_less_than_rounding_to_the_largest_value() -> None:
    values = random_matrix(64, 192)
    blocks = values.reshape(-1, 32)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    rounded = np.clip(np.rint(blocks / (largest / -128)), -128, 127) * (largest / -128)

    plain = ((rounded - blocks) ** 2).sum(axis=1)
    found = ((quantize(values, INT8).dequantize().reshape(-1, 32) - blocks) ** 2).sum(axis=1)

    assert (found <= plain * 1.0001).all()
    assert found.sum() < 0.9 * plain.sum()


def test_quantize_in_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = random_matrix(8, 96)
    whole = quantize(values, BlockFormat(4, 32))
    monkeypatch.setattr("training.export.quantize._CHUNK_VALUES", 100)

    parts = quantize(values, BlockFormat(4, 32))

    assert np.array_equal(parts.values, whole.values)
    assert np.array_equal(parts.scales, whole.scales)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantize_gives_the_same_in_pieces(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = random_matrix(50, 96)
    whole = quantize(matrix, BlockFormat(bits, 32))
    monkeypatch.setattr("training.export.quantize._CHUNK_VALUES", 7 * 32)

    parts = quantize(matrix, BlockFormat(bits, 32))

    np.testing.assert_array_equal(parts.values, whole.values)
    np.testing.assert_array_equal(parts.scales, whole.scales)
