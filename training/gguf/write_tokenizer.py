"""The tokenizer and chat template of a Hugging Face folder, as a GGUF file has them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType
from tokenizers import Tokenizer

from everloop.errors import ArtifactError
from training.export.special_tokens import read_special_tokens
from training.export.tokenizer_files import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    read_chat_template,
    read_tokenizer,
)
from training.gguf.pre_tokenizers import PRE_TOKENIZERS, find_pre_tokenizer

# Marks for training, which stand around what the model wrote; llama.cpp's Jinja knows no such tag.
_GENERATION_MARKS = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")


def add_tokenizer(writer: GGUFWriter, checkpoint: Path, vocab_size: int) -> None:
    """Add the tokens, merges, special tokens and chat template of a checkpoint.

    Args:
        writer: of the file.
        checkpoint: Hugging Face folder.
        vocab_size: rows of the model's table; those without a token become unused ones.

    Raises:
        ArtifactError: the tokenizer has no like in llama.cpp.
    """
    tokenizer = read_tokenizer(checkpoint, vocab_size)
    path = checkpoint / TOKENIZER_FILE
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(path, content))
    tokens, types = _tokens(tokenizer, content, vocab_size)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in _merges(path, content)]
    writer.add_token_merges(merges)
    _add_special_tokens(writer, checkpoint, tokenizer)
    template = read_chat_template(checkpoint)
    if template is not None:
        writer.add_chat_template(_GENERATION_MARKS.sub("", template))


def _pre_tokenizer(path: Path, content: Mapping[str, Any]) -> str:
    model = content["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        kind = "BPE with byte fallback" if model.get("byte_fallback") else model.get("type")
        raise ArtifactError(
            f"{path}: a tokenizer of the kind {kind} cannot be written as GGUF; supported: "
            "byte-level BPE."
        )
    normalizer = content.get("normalizer")
    # llama.cpp normalizes nothing; its own converter drops the NFC that Qwen's tokenizers have.
    if normalizer is not None and normalizer.get("type") != "NFC":
        raise ArtifactError(
            f"{path}: the normalizer {normalizer.get('type')} cannot be written as GGUF."
        )
    split = content.get("pre_tokenizer") or {}
    name = find_pre_tokenizer(split, bool(model.get("ignore_merges")))
    if name is None:
        kinds = [part.get("type") for part in split.get("pretokenizers") or [split]]
        raise ArtifactError(
            f"{path}: llama.cpp knows no pre-tokenizer like {' and '.join(map(str, kinds))} of "
            f"this one; known: {', '.join(PRE_TOKENIZERS)}."
        )
    return name


def _merges(path: Path, content: Mapping[str, Any]) -> list[Any]:
    merges: list[Any] = content["model"]["merges"]
    if not merges:
        raise ArtifactError(
            f"{path}: the tokenizer has no merges, and llama.cpp loads none without. Train one "
            "with a larger vocabulary."
        )
    return merges


def _tokens(
    tokenizer: Tokenizer, content: Mapping[str, Any], vocab_size: int
) -> tuple[list[str], list[int]]:
    tokens = [f"[PAD{id_}]" for id_ in range(vocab_size)]
    types = [int(TokenType.UNUSED)] * vocab_size
    for token, id_ in tokenizer.get_vocab().items():
        tokens[id_], types[id_] = token, int(TokenType.NORMAL)
    for added in content["added_tokens"]:
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        types[added["id"]] = int(kind)
    return tokens, types


def _add_special_tokens(writer: GGUFWriter, checkpoint: Path, tokenizer: Tokenizer) -> None:
    special = read_special_tokens(checkpoint)
    ends = sorted(special.eos_token_ids, key=lambda id_: id_ != _turn_end(checkpoint, tokenizer))
    writer.add_eos_token_id(ends[0])
    if len(ends) > 1:
        writer.add_eot_token_id(ends[1])
    writer.add_pad_token_id(special.pad_token_id)
    if special.bos_token_id is not None:
        writer.add_bos_token_id(special.bos_token_id)
    whole, plain = (tokenizer.encode("a", add_special_tokens=added).ids for added in (True, False))
    around = whole[: len(whole) - len(plain)]
    if whole == [*around, *plain] and around in ([], [special.bos_token_id]):
        writer.add_add_bos_token(bool(around))
        return
    raise ArtifactError(
        f"{checkpoint / TOKENIZER_FILE}: the tokens {whole} around those of a text cannot be "
        "written as GGUF; supported: bos, or none."
    )


def _turn_end(checkpoint: Path, tokenizer: Tokenizer) -> int | None:
    """The end token that the tokenizer's own config names."""
    path = checkpoint / CONFIG_FILE
    named = json.loads(path.read_text(encoding="utf-8")).get("eos_token") if path.is_file() else ""
    token = named.get("content") if isinstance(named, dict) else named
    return tokenizer.token_to_id(token or "")
