"""Move a checkpoint to another vocabulary: transfer learning between tokenizers.

The rule. With the tokenizer that the checkpoint was trained with, all weights are kept. With
another one, the layers are kept; a token that both vocabularies spell alike takes its embedding
along, and every other token starts at the mean of the old embeddings. A head that is not tied to
the embedding is moved in the same way.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from everloop.errors import ArtifactError, ConfigError
from everloop.manifest import sha256_file
from training.pretrained import load_network
from training.tokenizer import FILE_NAME, load_tokenizer
from training.tokens import TokenizerFolder

logger = logging.getLogger(__name__)


def load_for_vocabulary(
    parent: Path, tokenizer: TokenizerFolder, context_length: int, device: str = "cpu"
) -> PreTrainedModel:
    """Load a checkpoint's network for the tokens of a tokenizer.

    Raises:
        ArtifactError: the parent is no causal language model, or its own vocabulary is larger than
            its embedding.
        ConfigError: the context is longer than the positions that the parent has.
    """
    network = load_network(parent, device=device)
    check_context(network, context_length, parent)
    if sha256_file(parent / FILE_NAME) != tokenizer.sha256:
        old = load_tokenizer(parent)
        check_vocabulary(network, old.get_vocab_size(), parent)
        _move(network, old, load_tokenizer(tokenizer.path))
    special = tokenizer.special
    network.config.bos_token_id = network.generation_config.bos_token_id = special.bos
    network.config.pad_token_id = network.generation_config.pad_token_id = special.pad
    network.config.eos_token_id = network.generation_config.eos_token_id = list(special.eos)
    return network


def check_context(network: PreTrainedModel, context_length: int, parent: Path) -> None:
    """Refuse sequences that are longer than the positions of a network.

    Raises:
        ConfigError: they are.
    """
    positions = getattr(network.config, "max_position_embeddings", context_length)
    if context_length > positions:
        raise ConfigError(
            f"model.context_length is {context_length:,}, {parent} has {positions:,} positions. "
            "Shorten the context or name another checkpoint."
        )


def check_vocabulary(network: PreTrainedModel, tokens: int, parent: Path) -> None:
    """Refuse a tokenizer with more tokens than a network has embeddings.

    Raises:
        ArtifactError: it has.
    """
    rows = _weight(network.get_input_embeddings()).shape[0]
    if tokens > rows:
        raise ArtifactError(
            f"{parent}: tokenizer.json has {tokens:,} tokens, the model has embeddings for "
            f"{rows:,}. They do not belong together; restore the folder."
        )


def _move(network: PreTrainedModel, old: Tokenizer, new: Tokenizer) -> None:
    source = old.get_vocab()
    shared = [(id_, source[token]) for token, id_ in new.get_vocab().items() if token in source]
    logger.info(
        "transfer shared_tokens=%d new_tokens=%d", len(shared), new.get_vocab_size() - len(shared)
    )
    to, from_ = (torch.tensor(ids, dtype=torch.long) for ids in zip(*shared, strict=True))
    head = network.get_output_embeddings()
    is_tied = _weight(head) is _weight(network.get_input_embeddings())
    tables = {"input": _weight(network.get_input_embeddings()).detach().clone()}
    if not is_tied:
        tables["output"] = _weight(head).detach().clone()
    network.resize_token_embeddings(new.get_vocab_size(), mean_resizing=False)
    _fill(network.get_input_embeddings(), tables["input"], to, from_)
    if not is_tied:
        _fill(network.get_output_embeddings(), tables["output"], to, from_)


@torch.no_grad()
def _fill(table: Any, before: torch.Tensor, to: torch.Tensor, from_: torch.Tensor) -> None:
    weight = _weight(table)
    weight.copy_(before.mean(dim=0).expand_as(weight))
    weight[to] = before[from_]


def _weight(table: Any) -> torch.Tensor:
    weight: torch.Tensor = table.weight
    return weight
