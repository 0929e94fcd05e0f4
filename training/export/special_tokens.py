"""Token ids that end a generation, collected from where Hugging Face folders keep them."""

import json
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from everloop.errors import ArtifactError
from everloop.manifest import SpecialTokens

GENERATION_CONFIG: Literal["generation_config.json"] = "generation_config.json"
# Ends of a document and of a turn: a chat model may stop at either, whatever its config names.
_END_TOKENS = (
    "<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>",
)  # fmt: skip


def read_special_tokens(checkpoint: Path) -> SpecialTokens:
    """Read bos, pad and every end token of a checkpoint.

    Raises:
        ArtifactError: no end token is named anywhere, so a generation could never end.
    """
    settings = [
        read_settings(checkpoint / GENERATION_CONFIG),
        read_settings(checkpoint / "config.json"),
    ]
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    ends = {token for values in settings for token in _as_ids(values.get("eos_token_id"))}
    eos_token = read_settings(checkpoint / "tokenizer_config.json").get("eos_token")
    if isinstance(eos_token, dict):  # older folders write the token with its settings
        eos_token = eos_token.get("content")
    named = [eos_token, *_END_TOKENS]
    found = [tokenizer.token_to_id(token) for token in named if isinstance(token, str)]
    ends |= {token for token in found if token is not None}
    if not ends:
        raise ArtifactError(
            f"{checkpoint}: no end token is named. Set eos_token_id in generation_config.json."
        )
    eos = tuple(sorted(ends))
    return SpecialTokens(
        bos_token_id=_first(settings, "bos_token_id"),
        eos_token_ids=eos,
        pad_token_id=next(iter(_as_ids(_first(settings, "pad_token_id"))), eos[0]),
    )


def read_settings(path: Path) -> dict[str, Any]:
    """Read a file of settings; one that is absent holds none.

    Raises:
        ArtifactError: it is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ArtifactError(f"{path} is no JSON: {error}. Copy it again.") from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{path} must hold a JSON object. Copy it again.")
    return content


def _as_ids(value: int | list[int] | None) -> list[int]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _first(settings: list[dict[str, Any]], key: str) -> int | None:
    return next((values[key] for values in settings if values.get(key) is not None), None)
