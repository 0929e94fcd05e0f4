"""How llama.cpp's pre-tokenizers split a text, by the name in `tokenizer.ggml.pre`.

Each is a sequence of patterns; a piece is what one of them matches, or what lies between. A name
stands here if its split was compared with llama.cpp's own, or is the same there as one that was.
Patterns that llama.cpp only approximates (those of tekken and GPT-4o) do not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_DIGIT = r"\p{N}"
# As some tokenizers write the same pattern.
_SAME = {
    pattern.replace(
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
    ): pattern
    for pattern in (_LLAMA3, _QWEN2)
}


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """What one name means.

    Attributes:
        patterns: applied one after the other to the pieces that the one before left.
        ignores_merges: a piece that is a token is taken whole.
        adds_bos: the file's tokens begin with bos, unless it says otherwise.
    """

    patterns: tuple[str, ...]
    ignores_merges: bool = False
    adds_bos: bool = False


_SPLIT_GPT2 = PreTokenizer((_GPT2,))
_SPLIT_DIGITS = PreTokenizer((_DIGIT, _GPT2))
_SPLIT_QWEN2 = PreTokenizer((_QWEN2,))
_SPLIT_LLAMA3 = PreTokenizer((_LLAMA3,), ignores_merges=True, adds_bos=True)

# The first name of a split is the one that is written.
PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    "gpt-2": _SPLIT_GPT2,
    "phi-2": _SPLIT_GPT2,
    "mpt": _SPLIT_GPT2,
    "olmo": _SPLIT_GPT2,
    "jais": _SPLIT_GPT2,
    "smollm": _SPLIT_DIGITS,
    "starcoder": _SPLIT_DIGITS,
    "refact": _SPLIT_DIGITS,
    "command-r": _SPLIT_DIGITS,
    "codeshell": _SPLIT_DIGITS,
    "exaone": _SPLIT_DIGITS,
    "minerva-7b": _SPLIT_DIGITS,
    "qwen2": _SPLIT_QWEN2,
    "deepseek-r1-qwen": _SPLIT_QWEN2,
    "stablelm2": _SPLIT_QWEN2,
    "hunyuan": _SPLIT_QWEN2,
    "megrez": _SPLIT_QWEN2,
    "llama-bpe": _SPLIT_LLAMA3,
    "llama3": _SPLIT_LLAMA3,
    "llama-v3": _SPLIT_LLAMA3,
    "falcon3": _SPLIT_LLAMA3,
    "dbrx": PreTokenizer((_LLAMA3,)),
    "smaug-bpe": PreTokenizer((_LLAMA3,)),
    "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
}


def pre_tokenizer_json(split: PreTokenizer) -> dict[str, Any]:
    """The split as the `pre_tokenizer` of a tokenizer.json."""
    *before, last = split.patterns
    is_gpt2 = last == _GPT2  # the byte level brings this pattern itself
    patterns = before if is_gpt2 else split.patterns
    parts: list[dict[str, Any]] = [
        {"type": "Split", "pattern": {"Regex": each}, "behavior": "Isolated", "invert": False}
        for each in patterns
    ]
    parts.append(
        {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": is_gpt2,
        }
    )
    return parts[0] if len(parts) == 1 else {"type": "Sequence", "pretokenizers": parts}


def find_pre_tokenizer(pre_tokenizer: Mapping[str, Any], ignores_merges: bool) -> str | None:
    """The name of the split of a tokenizer.json; None = llama.cpp knows none like it."""
    patterns = _patterns(pre_tokenizer)
    wanted = (patterns, ignores_merges)
    return next(
        (
            name
            for name, split in PRE_TOKENIZERS.items()
            if (split.patterns, split.ignores_merges) == wanted
        ),
        None,
    )


def _patterns(pre_tokenizer: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The patterns of splits that end in the byte level; None = it is something else."""
    if pre_tokenizer.get("type") == "Sequence":
        *parts, last = pre_tokenizer.get("pretokenizers") or [{}]
    else:
        parts, last = [], pre_tokenizer
    patterns = [_pattern(part) for part in parts]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space", True) or None in patterns:
        return None
    if last.get("use_regex", True):
        patterns.append(_GPT2)
    return tuple(_SAME.get(each, each) for each in patterns if each is not None)


def _pattern(part: Mapping[str, Any]) -> str | None:
    if part.get("type") == "Digits" and part.get("individual_digits"):
        return _DIGIT
    is_isolated = part.get("behavior") == "Isolated" and not part.get("invert")
    pattern: str | None = part.get("pattern", {}).get("Regex")
    return pattern if part.get("type") == "Split" and is_isolated else None
