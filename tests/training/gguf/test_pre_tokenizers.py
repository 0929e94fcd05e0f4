import pytest

from training.gguf.pre_tokenizers import PRE_TOKENIZERS, find_pre_tokenizer, pre_tokenizer_json

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)


def split(pattern: str) -> dict[str, object]:
    return {
        "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False
    }  # fmt: skip


def sequence(*parts: dict[str, object]) -> dict[str, object]:
    return {"type": "Sequence", "pretokenizers": list(parts)}


@pytest.mark.parametrize(
    ("published", "ignores_merges", "name"),
    [
        (BYTE_LEVEL, False, "gpt-2"),  # as everloop's own tokenizers have it, too
        (
            sequence({"type": "Digits", "individual_digits": True}, BYTE_LEVEL),
            False,
            "smollm",
        ),
        (sequence(split(QWEN2), BYTE_LEVEL | {"use_regex": False}), False, "qwen2"),
        (sequence(split(LLAMA3), BYTE_LEVEL | {"use_regex": False}), True, "llama-bpe"),
        (sequence(split(LLAMA3), BYTE_LEVEL | {"use_regex": False}), False, "dbrx"),
        (sequence(split(r"\w+"), BYTE_LEVEL | {"use_regex": False}), False, None),
        (BYTE_LEVEL | {"add_prefix_space": True}, False, None),
        ({"type": "Metaspace", "replacement": "▁"}, False, None),
        ({}, False, None),
    ],
)
def test_find_names_the_split_of_published_tokenizers(
    published: dict[str, object], ignores_merges: bool, name: str | None
) -> None:
    assert find_pre_tokenizer(published, ignores_merges) == name


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_what_is_read_is_found_again(name: str) -> None:
    wanted = PRE_TOKENIZERS[name]

    found = find_pre_tokenizer(pre_tokenizer_json(wanted), wanted.ignores_merges)

    assert found is not None
    assert PRE_TOKENIZERS[found].patterns == wanted.patterns
