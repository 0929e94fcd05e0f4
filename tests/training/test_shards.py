import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from everloop.errors import DataError, EverloopError
from everloop.manifest import sha256_file
from everloop.records import DatasetRow, Message, Source
from training.shards import TokenShard, read_shard_info, write_shards
from training.tokenizer import encode_plain, load_tokenizer

TRAIN = ["The quick brown fox.", "naïve <|endoftext|> text"]


def row(text: str | None, split: str) -> DatasetRow:
    turn = Message(role="assistant", content="not in the shards")
    return DatasetRow(
        id="0",
        split=split,  # type: ignore[arg-type]
        sources=(Source(kind="document", id="d"),),
        text=text,
        messages=None if text else (turn,),
    )


ROWS = [
    row(TRAIN[0], "train"),
    row("a lazy dog", "validation"),
    row(None, "train"),
    row("kept for the gate", "holdout"),
    row(TRAIN[1], "train"),
]


@pytest.fixture
def shards(tmp_path: Path, tiny_tokenizer: Path) -> Path:
    write_shards(ROWS, tiny_tokenizer, tmp_path / "shards", "ds-1")
    return tmp_path / "shards"


def test_write_shards_encodes_each_text_and_a_separator(shards: Path, tiny_tokenizer: Path) -> None:
    first, second = encode_plain(load_tokenizer(tiny_tokenizer), TRAIN)
    shard = TokenShard.open(shards, "train")
    assert shard.tokens.tolist() == [*first, 0, *second, 0]
    assert (shard.tokens == 0).sum() == 2  # the written <|endoftext|> is no separator
    assert (shards / "train.bin").read_bytes() == np.array([*first, 0, *second, 0], "<u2").tobytes()


def test_write_shards_records_what_they_are(shards: Path, tiny_tokenizer: Path) -> None:
    info = read_shard_info(shards)
    assert info.dtype == "uint16"
    assert info.text_bytes == {"train": 20 + 25, "validation": 10}
    assert info.documents == {"train": 2, "validation": 1}
    shard = TokenShard.open(shards, "train")
    assert shard.dataset_id == "ds-1"
    assert shard.tokenizer_sha256 == sha256_file(tiny_tokenizer / "tokenizer.json")
    assert shard.bytes_per_token == 45 / len(shard.tokens)
    assert sorted(path.name for path in shards.parent.iterdir()) == ["shards"]


def test_write_shards_encodes_the_same_input_once(shards: Path, tiny_tokenizer: Path) -> None:
    def exhausted() -> Iterator[DatasetRow]:
        raise AssertionError("read again")
        yield

    assert write_shards(exhausted(), tiny_tokenizer, shards, "ds-1") == read_shard_info(shards)


def test_write_shards_replaces_those_of_another_dataset(shards: Path, tiny_tokenizer: Path) -> None:
    rows = [row("other", "train"), row("other too", "validation")]
    assert write_shards(rows, tiny_tokenizer, shards, "ds-2").documents["train"] == 1
    assert TokenShard.open(shards, "train").dataset_id == "ds-2"


def test_write_shards_replaces_damaged_ones(shards: Path, tiny_tokenizer: Path) -> None:
    expected = (shards / "train.bin").read_bytes()
    (shards / "train.bin").write_bytes(expected[:-2])
    write_shards(ROWS, tiny_tokenizer, shards, "ds-1")
    assert (shards / "train.bin").read_bytes() == expected


def test_write_shards_encodes_in_batches_of_bounded_size(
    tmp_path: Path, tiny_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write_shards(ROWS * 5, tiny_tokenizer, tmp_path / "whole", "ds-1")
    monkeypatch.setattr("training.shard_writer._BATCH_CHARACTERS", 30)
    parts = write_shards(ROWS * 5, tiny_tokenizer, tmp_path / "parts", "ds-1")
    assert parts == whole
    for name in ("train.bin", "validation.bin"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_write_shards_goes_on_where_it_was_killed(
    tmp_path: Path, tiny_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.shard_writer._BATCH_CHARACTERS", 10)
    whole = write_shards(ROWS * 5, tiny_tokenizer, tmp_path / "whole", "ds-1")

    def broken() -> Iterator[DatasetRow]:
        yield from (ROWS * 5)[:13]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(broken(), tiny_tokenizer, tmp_path / "parts", "ds-1")
    (staging,) = tmp_path.glob(".parts-ds-1-*[!k]")
    done = json.loads((staging / "progress.json").read_text())["rows"]
    assert 10 <= done <= 13
    (staging / "train.bin").write_bytes((staging / "train.bin").read_bytes() + b"half a batch")
    encoded: list[str] = []
    monkeypatch.setattr(
        "training.shard_writer.encode_plain",
        lambda tokenizer, texts: encoded.extend(texts) or encode_plain(tokenizer, texts),
    )
    assert write_shards(ROWS * 5, tiny_tokenizer, tmp_path / "parts", "ds-1") == whole
    assert len(encoded) == sum(
        row.text is not None and row.split != "holdout" for row in (ROWS * 5)[done:]
    )
    for name in ("train.bin", "validation.bin"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"parts", "whole"}


def test_write_shards_encodes_a_test_split_where_there_is_one(
    tmp_path: Path, tiny_tokenizer: Path
) -> None:
    rows = [*ROWS, row("never seen", "test")]
    info = write_shards(rows, tiny_tokenizer, tmp_path / "shards", "ds-1")
    assert info.documents == {"train": 2, "validation": 1, "test": 1}
    assert TokenShard.open(tmp_path / "shards", "test").tokens[-1] == 0


def test_write_shards_refuses_a_split_without_text(tmp_path: Path, tiny_tokenizer: Path) -> None:
    with pytest.raises(DataError, match="ds-1 has no text in its validation split"):
        write_shards([row("one", "train")], tiny_tokenizer, tmp_path / "shards", "ds-1")
    assert list(tmp_path.iterdir()) == []


def test_write_shards_needs_a_separator(tmp_path: Path, tiny_tokenizer: Path) -> None:
    content = json.loads((tiny_tokenizer / "tokenizer.json").read_text())
    content["added_tokens"] = []
    del content["model"]["vocab"]["<|endoftext|>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"the tokenizer has no <\|endoftext\|>"):
        write_shards(ROWS, tmp_path, tmp_path / "shards", "ds-1")


def test_windows_predict_each_token_once(shards: Path) -> None:
    shard = TokenShard.open(shards, "train")
    windows = shard.windows(4)
    assert windows.shape == ((len(shard.tokens) - 1) // 4, 5)
    targets = windows[:, 1:].reshape(-1)
    assert targets.tolist() == shard.tokens[1 : 1 + len(targets)].tolist()
    assert windows[1, 0] == windows[0, -1]
    assert np.shares_memory(windows, shard.tokens)


def test_windows_refuse_a_split_shorter_than_one(shards: Path) -> None:
    with pytest.raises(DataError, match=r"one window takes 1001"):
        TokenShard.open(shards, "validation").windows(1000)


def test_open_refuses_missing_unknown_and_cut_shards(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no token shards"):
        TokenShard.open(tmp_path / "gone", "train")
    with pytest.raises(DataError, match=r"holdout\.bin has 0 bytes"):
        TokenShard.open(shards, "holdout")
    (shards / "train.bin").write_bytes(b"\0\0")
    with pytest.raises(DataError, match=r"train\.bin has 2 bytes, shards\.json says"):
        TokenShard.open(shards, "train")


def test_read_shard_info_names_a_damaged_file(shards: Path) -> None:
    (shards / "shards.json").write_text("{}")
    with pytest.raises(DataError, match=r"shards\.json is damaged"):
        read_shard_info(shards)


def test_write_shards_takes_four_bytes_for_a_large_vocabulary(tmp_path: Path) -> None:
    words = {"<|endoftext|>": 0, **{f"w{number}": number for number in range(1, 70_001)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    rows = [row("w70000 w1", "train"), row("w65536", "validation")]
    assert write_shards(rows, tmp_path, tmp_path / "shards", "ds-1").dtype == "uint32"
    assert TokenShard.open(tmp_path / "shards", "train").tokens.tolist() == [70_000, 1, 0]
    assert TokenShard.open(tmp_path / "shards", "validation").tokens.tolist() == [65_536, 0]


def test_a_full_disk_is_one_sentence_and_what_is_done_stays(
    tmp_path: Path, tiny_tokenizer: Path
) -> None:
    digest = sha256_file(tiny_tokenizer / "tokenizer.json")
    staging = tmp_path / f".shards-ds-1-{digest[:12]}"
    staging.mkdir()
    (staging / ".progress.json").symlink_to("/dev/full")
    with pytest.raises(EverloopError, match=r"cannot be written to .* \(No space left on device\)"):
        write_shards(ROWS, tiny_tokenizer, tmp_path / "shards", "ds-1")
    assert not (tmp_path / "shards").exists()
    (staging / ".progress.json").unlink()
    info = write_shards(ROWS, tiny_tokenizer, tmp_path / "shards", "ds-1")
    assert info.documents == {"train": 2, "validation": 1}
