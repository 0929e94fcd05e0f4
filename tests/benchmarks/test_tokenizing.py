"""The speed of token shards beside the tokenizers library."""

from pathlib import Path

from benchmarks.tokenizing import measure


def test_both_sides_encode_in_every_round(tmp_path: Path) -> None:
    documents = [
        f"Document {number} says that {number} follows {number - 1}." for number in range(40)
    ]
    (result,) = measure(tmp_path, documents, rounds=2)
    assert result.value > 0
    assert result.peer is not None
    assert result.peer > 0
    assert result.target == 0.8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards-0", "shards-1", "tokenizer"]
