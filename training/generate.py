"""Prompts and greedy answers for reports and tasks; serving has an engine of its own."""

from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from training.text_marks import text_context
from training.tokenizer import encode_plain


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str, *, as_chat: bool) -> list[int]:
    """Encode a prompt as plain text, or as a user's question that awaits its answer."""
    if not as_chat:
        return [*text_context(tokenizer), *encode_plain(tokenizer.backend_tokenizer, [text])[0]]
    encoding: Any = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
    )
    return list(encoding["input_ids"])


def generate(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: list[int],
    *,
    max_new_tokens: int,
) -> str:
    """Continue a prompt greedily; a prompt that is too long loses its beginning.

    Returns:
        The new text, without end marks.
    """
    room = network.config.max_position_embeddings - max_new_tokens
    ids = torch.tensor([prompt[-max(1, room) :]], device=network.device)
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=_end_ids(network),
        pad_token_id=network.config.pad_token_id,
    )
    generator: Any = network
    with torch.inference_mode():
        output = generator.generate(
            ids, attention_mask=torch.ones_like(ids), generation_config=settings
        )
    return str(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)).strip()


def _end_ids(network: PreTrainedModel) -> list[int]:
    """The tokens at which the served model ends too; both of a folder's files may name some."""
    ids: set[int] = set()
    for config in (network.config, network.generation_config):
        named: int | list[int] | None = getattr(config, "eos_token_id", None)
        if named is not None:
            ids |= set(named) if isinstance(named, list) else {named}
    return sorted(ids)
