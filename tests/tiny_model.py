"""Tiny random models on disk: a checkpoint, and the model version exported from it."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from everloop.chat import CHAT_TEMPLATE
from training.export import ExportConfig, export_checkpoint

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCAB_SIZE = len(SPECIAL_TOKENS) + 256
GOLDEN_PROMPTS = ("def add(a, b):", "The list is", "<|im_start|>user\nHello<|im_end|>\n")


def make_tiny_tokenizer(folder: Path) -> None:
    """Write a byte-level tokenizer without merges: one token per byte after the special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*SPECIAL_TOKENS, *alphabet]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: id_ for id_, token in enumerate(tokens)}, merges=[])
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


def make_tiny_checkpoint(
    folder: Path,
    *,
    family: str = "qwen3",
    is_tied: bool = True,
    max_model_len: int = 128,
    vocab_size: int = VOCAB_SIZE,
    seed: int = 0,
    **settings: object,
) -> Path:
    """Write a random Hugging Face checkpoint with its tokenizer.

    Args:
        folder: made if absent.
        family: qwen3 or llama.
        is_tied: one table for the embedding and the head.
        max_model_len: positions of the model.
        vocab_size: at least 259, the tokens of the tokenizer.
        seed: of the weights.
        settings: further fields of the model's config.
    """
    config_class, model_class, head_dim = {
        "qwen3": (Qwen3Config, Qwen3ForCausalLM, 32),  # wider than hidden_size / heads
        "llama": (LlamaConfig, LlamaForCausalLM, 16),
    }[family]
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": head_dim,
        "initializer_range": 0.1,  # wide, so that logits differ clearly
    }
    config = config_class(
        **(sizes | settings),
        vocab_size=vocab_size,
        max_position_embeddings=max_model_len,
        tie_word_embeddings=is_tied,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=0,
        attn_implementation="eager",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
        for name, parameter in model.named_parameters():
            if "norm" in name:
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
            elif name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=[0, 2], pad_token_id=0)
    model.save_pretrained(folder)
    make_tiny_tokenizer(folder)
    return folder


def make_tiny_version(
    folder: Path,
    *,
    family: str = "qwen3",
    precision: str = "fp32",
    max_model_len: int = 128,
    vocab_size: int = VOCAB_SIZE,
    seed: int = 0,
    **settings: object,
) -> Path:
    """Export a tiny random model; give its model version folder inside `folder`."""
    checkpoint = make_tiny_checkpoint(
        folder / f"checkpoint-{family}-{seed}",
        family=family,
        max_model_len=max_model_len,
        vocab_size=vocab_size,
        seed=seed,
        **settings,
    )
    return export_checkpoint(
        checkpoint,
        np.random.default_rng(seed).integers(3, VOCAB_SIZE, (4, 33)),
        config=ExportConfig(precision=precision, max_query_len=32, max_int8_loss_increase=1.0),
        bytes_per_token=1.0,
        golden_prompts=GOLDEN_PROMPTS,
        evaluation={},
        staging=folder,
    )
