from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.tiny_model import make_tiny_checkpoint
from training.export.parity import max_abs_logit_diff, parity_steps

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
VARIANTS = {
    "qwen3 tied": {"family": "qwen3"},
    "qwen3 untied": {"family": "qwen3", "is_tied": False},
    "qwen3 biased": {"family": "qwen3", "attention_bias": True},
    "qwen3 one kv head": {"family": "qwen3", "num_key_value_heads": 1},
    "llama tied": {"family": "llama"},
    "llama untied": {"family": "llama", "is_tied": False},
    "llama biased": {"family": "llama", "attention_bias": True, "mlp_bias": True},
    "llama scaled rotary": {"family": "llama", "rope_parameters": LLAMA3_ROPE},
    "llama one layer": {"family": "llama", "num_hidden_layers": 1, "rms_norm_eps": 1e-3},
}


def load(checkpoint: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="eager").eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_graph_agrees_with_torch_in_every_order(
    tmp_path: Path, build: Callable[..., ort.InferenceSession], variant: str
) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path, **VARIANTS[variant])

    difference = max_abs_logit_diff(
        load(checkpoint), build(checkpoint), max_model_len=128, max_query_len=32
    )

    assert difference < 2e-5


def test_parity_shows_a_single_wrong_weight(
    tiny_checkpoint: Path, tiny_session: ort.InferenceSession
) -> None:
    model = load(tiny_checkpoint)
    with torch.no_grad():
        model.model.layers[1].self_attn.k_norm.weight[0] += 0.05

    difference = max_abs_logit_diff(model, tiny_session, max_model_len=128, max_query_len=32)

    assert difference > 1e-3


def test_parity_of_16_bit_shards_is_that_of_their_float32_values(
    tmp_path: Path, tiny_checkpoint: Path, build: Callable[..., ort.InferenceSession]
) -> None:
    make_tiny_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    load(tiny_checkpoint).to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size="100KB")
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    ).eval()

    difference = max_abs_logit_diff(model, build(tmp_path), max_model_len=128, max_query_len=32)

    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert difference < 2e-5


@pytest.mark.parametrize("max_model_len", [32, 48, 128, 4096])
@pytest.mark.parametrize("max_query_len", [16, 32, 256])
def test_parity_steps_stay_within_the_limits(max_model_len: int, max_query_len: int) -> None:
    lengths = dict.fromkeys(range(4), 0)
    capacity = max_model_len + max_query_len

    for step in parity_steps(max_model_len, max_query_len):
        for slot in step.free:
            lengths[slot] = 0
        for slot, tokens in step.roll_back.items():
            lengths[slot] -= tokens
        if step.copy:
            source, target, tokens = step.copy
            assert lengths[source] >= tokens and lengths[target] == 0
            lengths[target] = tokens
        width = max(step.new_tokens.values())
        assert 1 <= width <= max_query_len
        assert max(lengths.values()) + width <= capacity
        for slot, tokens in step.new_tokens.items():
            lengths[slot] += tokens
        assert all(0 <= length <= max_model_len for length in lengths.values())
    assert lengths[1] == min(max_model_len, 512)
