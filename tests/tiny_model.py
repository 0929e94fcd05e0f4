"""Tiny random models on disk: a checkpoint, and the model version exported from it."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GenerationConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
)

from everloop.chat import CHAT_TEMPLATE
from training import rnn
from training.export import ExportConfig, export_checkpoint
from training.pretrained import quiet_transformers
from training.rnn import RnnConfig

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCAB_SIZE = len(SPECIAL_TOKENS) + 256
_DECODER = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.1,  # wide, so that logits differ clearly
}
_GROUPED = {name: size for name, size in _DECODER.items() if name != "head_dim"}
_PLAIN = {name: size for name, size in _GROUPED.items() if name != "num_key_value_heads"}
_WINDOW = {"sliding_window": 24}
LLAMA3_ROPE: dict[str, object] = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_RECURRENT = {"hidden_size": 64, "num_hidden_layers": 2, "initializer_range": 0.5}
# Config class and sizes of every family that can be exported; layers with and without a window.
FAMILIES = {
    "qwen3": (Qwen3Config, _DECODER | {"head_dim": 32}),  # wider than hidden_size / heads
    "llama": (LlamaConfig, _DECODER),
    "mistral": (MistralConfig, _DECODER | _WINDOW),
    "qwen2": (
        Qwen2Config,
        _GROUPED | _WINDOW | {"use_sliding_window": True, "max_window_layers": 1},
    ),
    "gemma": (GemmaConfig, _DECODER),
    "gemma2": (Gemma2Config, _DECODER | _WINDOW | {"query_pre_attn_scalar": 24}),
    "gemma3": (
        Gemma3TextConfig,
        _DECODER | _WINDOW | {"sliding_window_pattern": 2, "query_pre_attn_scalar": 16},
    ),
    "gpt2": (
        GPT2Config,
        {"n_embd": 64, "n_inner": 96, "n_layer": 2, "n_head": 4, "initializer_range": 0.1},
    ),
    "gpt_neo": (
        GPTNeoConfig,
        {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 24,
            "initializer_range": 0.1,
        },
    ),
    "gpt_neox": (GPTNeoXConfig, _PLAIN | {"hidden_size": 128, "rotary_pct": 0.5}),
    "granite": (
        GraniteConfig,
        _GROUPED
        | {
            "embedding_multiplier": 4.0,
            "attention_multiplier": 0.1,
            "residual_multiplier": 0.5,
            "logits_scaling": 2.0,
        },
    ),
    "olmo2": (Olmo2Config, _GROUPED),
    "opt": (
        OPTConfig,
        {
            "hidden_size": 64,
            "ffn_dim": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "init_std": 0.1,
        },
    ),
    "phi": (PhiConfig, _GROUPED | {"hidden_size": 128, "partial_rotary_factor": 0.5}),
    "phi3": (Phi3Config, _GROUPED | {"sliding_window": 24}),
    "smollm3": (SmolLM3Config, _GROUPED | {"no_rope_layer_interval": 2}),
    "stablelm": (StableLmConfig, _GROUPED | {"hidden_size": 128, "partial_rotary_factor": 0.5}),
    "starcoder2": (Starcoder2Config, _GROUPED | {"sliding_window": 24}),
    "lstm": (RnnConfig, _RECURRENT | {"cell": "lstm"}),
    "gru": (RnnConfig, _RECURRENT | {"cell": "gru"}),
}
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
        family: one of FAMILIES.
        is_tied: one table for the embedding and the head.
        max_model_len: positions of the model.
        vocab_size: at least 259, the tokens of the tokenizer.
        seed: of the weights.
        settings: further fields of the model's config.
    """
    rnn.register()
    config_class, sizes = FAMILIES[family]
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
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():
            if family not in ("qwen3", "llama") and (".layers." in name or ".h." in name):
                # What is read outweighs the last token; GPT-Neo's scores are not scaled down.
                torch.nn.init.normal_(parameter, std=0.2 if family == "gpt_neo" else 0.3)
            if "bias" in name:
                torch.nn.init.normal_(parameter, std=0.1)
            elif "norm" in name or ".ln_" in name:
                low = -0.5 if family.startswith("gemma") else 0.5  # stored less one
                if family in ("gemma2", "gemma3") and "post_" in name:
                    low += 3  # these norms bound what a layer adds
                torch.nn.init.uniform_(parameter, low, low + 1)
        model.generation_config = GenerationConfig(
            bos_token_id=0, eos_token_id=[0, 2], pad_token_id=0
        )
        model.save_pretrained(folder)
    make_tiny_tokenizer(folder)
    return folder


def make_tiny_version(
    folder: Path,
    *,
    family: str = "qwen3",
    precision: str = "fp32",
    cache: str = "fp32",
    block_size: int | None = None,
    embeddings: bool = False,
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
        config=ExportConfig(
            max_model_len=max_model_len,
            precision=precision,
            cache=cache,
            block_size=block_size,
            embeddings=embeddings,
            max_query_len=32,
            max_kl=100.0,
            min_top_1_agreement=0.0,
            max_int8_loss_increase=1.0,
            max_int4_loss_increase=1.0,
            max_int8_cache_loss_increase=1.0,
        ),
        bytes_per_token=1.0,
        golden_prompts=GOLDEN_PROMPTS,
        evaluation={},
        staging=folder,
    )
