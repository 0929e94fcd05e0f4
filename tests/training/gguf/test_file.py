import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from everloop.errors import ArtifactError
from training.gguf.file import GgufFile, is_gguf

VALUES = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with one tensor of each of several types, written by the gguf package."""
    target = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_type("model")
    writer.add_block_count(3)
    writer.add_float32("llama.rope.freq_base", 10_000.0)
    writer.add_token_list(["a", "ä", "<|end|>"])
    writer.add_token_types([1, 1, 3])
    for kind in KINDS:
        stored = gguf.quants.quantize(VALUES, gguf.GGMLQuantizationType[kind])
        writer.add_tensor(kind, stored, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def change(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


def test_read_gives_what_the_gguf_package_wrote(path: Path) -> None:
    file = GgufFile.read(path)

    assert file.metadata["llama.block_count"] == 3
    assert file.metadata["llama.rope.freq_base"] == 10_000.0
    assert file.metadata["tokenizer.ggml.tokens"] == ["a", "ä", "<|end|>"]
    assert file.metadata["tokenizer.ggml.token_type"] == [1, 1, 3]
    assert {tensor.shape for tensor in file.tensors.values()} == {(8, 64)}
    assert [tensor.kind.name for tensor in file.tensors.values()] == list(KINDS)


@pytest.mark.parametrize(
    ("kind", "steps"),
    [("F32", 0), ("F16", 2**-11), ("BF16", 2**-8), ("Q8_0", 1 / 127), ("Q4_0", 1 / 7)],
)
def test_values_are_the_written_ones_within_a_step_of_the_type(
    path: Path, kind: str, steps: float
) -> None:
    error = np.abs(GgufFile.read(path).values(kind) - VALUES).max()

    assert error <= steps * np.abs(VALUES).max()


def test_plain_keeps_16_bits(path: Path) -> None:
    file = GgufFile.read(path)

    assert file.plain("F16").dtype == np.float16
    bits = file.plain("BF16").astype(np.uint32) << 16
    assert np.array_equal(bits.view(np.float32), file.values("BF16"))


def test_every_cut_of_a_file_is_refused(path: Path) -> None:
    content = path.read_bytes()
    cut = path.with_name("cut.gguf")
    for length in [*range(4, 700), *range(700, len(content) - 31, 97), len(content) - 33]:
        cut.write_bytes(content[:length])
        with pytest.raises(ArtifactError, match=r"is cut short"):
            GgufFile.read(cut)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: change(path, b"GGUF", b"GGML"), "is no GGUF file: it begins with b'GGML'"),
        (
            lambda path: change(path, b"GGUF\x03\x00", b"GGUF\x04\x00"),
            r"has format version 4, which is newer than the supported ones \(2, 3\)",
        ),
        (
            lambda path: change(path, b"GGUF\x03\x00", b"GGUF\x01\x00"),
            "has format version 1, which is older",
        ),
        (lambda path: change(path, b"GGUF\x03\0\0\0", b"GGUF\0\0\0\x03"), "big-endian"),
        (
            lambda path: change(
                path, b"Q8_0" + struct.pack("<IQQI", 2, 64, 8, 8),
                b"Q8_0" + struct.pack("<IQQI", 2, 64, 8, 999),
            ),
            "tensor Q8_0 has the unknown quantization type 999",
        ),
        (
            lambda path: change(
                path, b"Q8_0" + struct.pack("<IQQI", 2, 64, 8, 8),
                b"Q8_0" + struct.pack("<IQQI", 2, 64, 8, 15),
            ),
            "tensor Q8_0 has the quantization Q8_K, which cannot be read",
        ),
        (
            lambda path: change(
                path, b"general.type" + struct.pack("<IQ", 8, 5) + b"model",
                b"general.type" + struct.pack("<IQ", 8, 5) + b"lora!",
            ),
            "holds no model but general.type lora!",
        ),
    ],
)  # fmt: skip
def test_file_that_cannot_be_read_is_refused_in_one_sentence(
    path: Path, edit: Callable[[Path], object], message: str
) -> None:
    edit(path)

    with pytest.raises(ArtifactError, match=message):
        GgufFile.read(path)


def test_one_of_several_parts_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "part.gguf", "llama")
    writer.add_uint16("split.count", 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with pytest.raises(ArtifactError, match="is one of 3 parts"):
        GgufFile.read(tmp_path / "part.gguf")


def test_is_gguf_goes_by_the_name_and_by_the_content(path: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "blob").write_bytes(path.read_bytes())
    (tmp_path / "text").write_text("GG", encoding="utf-8")

    found = [is_gguf(tmp_path / name) for name in ("empty.gguf", "blob", "text", ".", "none")]

    assert found == [True, True, False, False, False]
