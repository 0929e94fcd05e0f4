"""The special tokens of a tokenizer, whoever made it: where a text begins and ends, what forges."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from everloop.errors import ArtifactError
from everloop.records import DatasetRow

# Ends of a document; a tokenizer of a chat model often names the end of a turn as its end token.
_DOCUMENT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")


def special_texts(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """How the special tokens are written: a text that holds one could end a turn."""
    added: dict[int, Any] = tokenizer.added_tokens_decoder
    marked = {token.content for token in added.values() if token.special}
    return tuple(sorted(text for text in marked | set(tokenizer.all_special_tokens) if text))


def document_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token behind a document; None where the tokenizer has none at all."""
    vocabulary = tokenizer.get_vocab()
    known = (vocabulary[token] for token in _DOCUMENT_ENDS if token in vocabulary)
    return next(known, cast(int | None, tokenizer.eos_token_id))


def document_start(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token that this tokenizer puts before every text, if it does.

    Llama's and Gemma's do, and their models know no text without it; Everloop's own does not.
    """
    first = list(tokenizer("").input_ids)[:1]
    return first if first and first[0] == tokenizer.bos_token_id else []


def text_context(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What stands before the first token of a text that is to be predicted: one token."""
    first = tokenizer.bos_token_id
    if first is None:
        first = document_end(tokenizer)
    return [0 if first is None else int(cast(int, first))]


def check_template(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[DatasetRow], checkpoint: Path
) -> None:
    """Refuse conversations for a model that has no way of writing them.

    Raises:
        ArtifactError: it has none, and there are conversations.
    """
    if tokenizer.chat_template is None and any(row.kind != "text" for row in rows):
        raise ArtifactError(
            f"{checkpoint} has no chat template, so it cannot be tuned on conversations. Name an "
            "instruction-tuned model, or add chat_template.jinja to the folder."
        )
