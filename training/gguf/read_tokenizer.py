"""The tokenizer of a GGUF file as the files of a Hugging Face folder.

Written as JSON straight from the metadata: building the slow tokenizer first, as transformers does,
takes 40 s for 49,152 tokens.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import Tokenizer

from everloop.chat import FILE_NAME as CHAT_TEMPLATE_FILE
from everloop.errors import ArtifactError
from training.export.tokenizer_files import CONFIG_FILE, TOKENIZER_FILE
from training.gguf.file import GgufFile
from training.gguf.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer, pre_tokenizer_json

_KEY = "tokenizer.ggml."
_BYTE_LEVEL = "gpt2"  # of `tokenizer.ggml.model`
_SPECIAL = (TokenType.CONTROL, TokenType.UNKNOWN)
# As config.json names them: keys of the metadata, the first that is there counts.
_IDS = {
    "bos_token_id": ("bos_token_id",),
    "pad_token_id": ("padding_token_id", "pad_token_id"),
}
_END_IDS = ("eos_token_id", "eot_token_id", "eom_token_id")


def special_token_ids(file: GgufFile) -> dict[str, Any]:
    """bos, pad and the end tokens, as generation_config.json has them; absent ones are left out."""
    found: dict[str, Any] = {}
    for name, keys in _IDS.items():
        given = [file.metadata[_KEY + key] for key in keys if _KEY + key in file.metadata]
        if given:
            found[name] = given[0]
    ends = list(
        dict.fromkeys(file.metadata[_KEY + key] for key in _END_IDS if _KEY + key in file.metadata)
    )
    if ends:
        found["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    return found


def write_tokenizer_files(file: GgufFile, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and, if there is one, the chat template.

    Raises:
        ArtifactError: the tokenizer is of a kind that cannot be converted.
    """
    content = _tokenizer_json(file)
    text = json.dumps(content, ensure_ascii=False)
    try:
        Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise ArtifactError(f"{file.path}: its tokenizer cannot be converted: {error}.") from error
    (folder / TOKENIZER_FILE).write_text(text, encoding="utf-8")
    (folder / CONFIG_FILE).write_text(
        json.dumps(_tokenizer_config(file), ensure_ascii=False, indent=1), encoding="utf-8"
    )
    template = file.metadata.get("tokenizer.chat_template")
    if template:
        (folder / CHAT_TEMPLATE_FILE).write_text(template, encoding="utf-8")


def _tokenizer_json(file: GgufFile) -> dict[str, Any]:
    model = file.metadata.get(f"{_KEY}model", "none named")
    if model != _BYTE_LEVEL:
        raise ArtifactError(
            f"{file.path}: a tokenizer of the kind {model} cannot be converted; supported: "
            f"{_BYTE_LEVEL} (byte-level BPE)."
        )
    split = _split(file)
    tokens, types = _tokens(file)
    named = zip(tokens, types, strict=True)
    vocab = {token: id_ for id_, (token, kind) in enumerate(named) if kind != TokenType.UNUSED}
    if len(vocab) != len(tokens) - types.count(TokenType.UNUSED):
        raise ArtifactError(
            f"{file.path}: its tokenizer cannot be converted: a token is twice in it."
        )
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(tokens, types),
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer_json(split),
        "post_processor": _post_processor(file, tokens, split),
        "decoder": {
            "type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": split.ignores_merges,
            "vocab": vocab,
            "merges": [_pair(file, merge) for merge in file.metadata.get(f"{_KEY}merges", [])],
        },
    }  # fmt: skip


def _split(file: GgufFile) -> PreTokenizer:
    name = file.metadata.get(f"{_KEY}pre", "default")  # as llama.cpp takes files from before 2024
    if name not in PRE_TOKENIZERS:
        raise ArtifactError(
            f"{file.path}: the pre-tokenizer {name} cannot be converted; supported: "
            f"{', '.join(PRE_TOKENIZERS)}."
        )
    return PRE_TOKENIZERS[name]


def _tokens(file: GgufFile) -> tuple[list[str], list[int]]:
    tokens = file.metadata.get(f"{_KEY}tokens")
    if not isinstance(tokens, list) or not tokens:
        raise ArtifactError(f"{file.path} has no tokens, so its texts could not be encoded.")
    types = file.metadata.get(f"{_KEY}token_type") or [int(TokenType.NORMAL)] * len(tokens)
    if len(types) != len(tokens):
        raise ArtifactError(
            f"{file.path}: its tokenizer cannot be converted: {len(tokens):,} tokens have "
            f"{len(types):,} types."
        )
    return tokens, types


def _added_tokens(tokens: list[str], types: list[int]) -> list[dict[str, Any]]:
    """Tokens that are found in a text before it is split."""
    return [
        {
            "id": id_,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind in _SPECIAL,
        }
        for id_, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in _SPECIAL or kind == TokenType.USER_DEFINED
    ]


def _pair(file: GgufFile, merge: str) -> list[str]:
    left, space, right = merge.partition(" ")
    if not (left and space and right) or " " in right:
        raise ArtifactError(
            f"{file.path}: its tokenizer cannot be converted: the merge {merge!r} is not two parts."
        )
    return [left, right]


def _post_processor(
    file: GgufFile, tokens: list[str], split: PreTokenizer
) -> dict[str, Any] | None:
    """What is put around the tokens of a whole text."""
    around: dict[str, int] = {
        place: file.metadata[f"{_KEY}{place}_token_id"]
        for place, default in (("bos", split.adds_bos), ("eos", False))
        if file.metadata.get(f"{_KEY}add_{place}_token", default)
        and f"{_KEY}{place}_token_id" in file.metadata
    }
    if not around:
        return None
    named = {place: tokens[id_] for place, id_ in around.items()}
    pieces: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    if "bos" in named:
        pieces.insert(0, {"SpecialToken": {"id": named["bos"], "type_id": 0}})
    if "eos" in named:
        pieces.append({"SpecialToken": {"id": named["eos"], "type_id": 0}})
    return {
        "type": "TemplateProcessing",
        "single": pieces,
        "pair": [*pieces, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {
            token: {"id": token, "ids": [around[place]], "tokens": [token]}
            for place, token in named.items()
        },
    }


def _tokenizer_config(file: GgufFile) -> Mapping[str, Any]:
    tokens = file.metadata[f"{_KEY}tokens"]
    ids = {
        "bos_token": file.metadata.get(f"{_KEY}bos_token_id"),
        "eos_token": file.metadata.get(f"{_KEY}eos_token_id"),
        "unk_token": file.metadata.get(f"{_KEY}unknown_token_id"),
        "pad_token": file.metadata.get(f"{_KEY}padding_token_id"),
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **{name: tokens[id_] for name, id_ in ids.items() if id_ is not None},
    }
