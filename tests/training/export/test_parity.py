from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from tests.tiny_model import FAMILIES, LLAMA3_ROPE, make_tiny_checkpoint
from training.export.config import ExportConfig
from training.export.parity import measure_parity, parity_steps
from training.pretrained import load_model

LIMIT = ExportConfig().max_parity_ratio
FAULTS = [
    "model.embed_tokens",
    "model.layers.0.self_attn.q_proj",
    "model.layers.1.self_attn.k_proj",
    "model.layers.0.self_attn.v_proj",
    "model.layers.1.self_attn.o_proj",
    "model.layers.1.mlp.gate_proj",
    "model.layers.0.mlp.up_proj",
    "model.layers.1.mlp.down_proj",
]
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}
DYNAMIC_ROPE = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0 + number / 10 for number in range(8)],
    "long_factor": [4.0] * 8,
    "original_max_position_embeddings": 96,
}
VARIANTS = {
    "qwen3 untied": {"family": "qwen3", "is_tied": False},
    "qwen3 biased": {"family": "qwen3", "attention_bias": True},
    "qwen3 one kv head": {"family": "qwen3", "num_key_value_heads": 1},
    "llama untied": {"family": "llama", "is_tied": False},
    "llama biased": {"family": "llama", "attention_bias": True, "mlp_bias": True},
    "llama llama3 rotary": {"family": "llama", "rope_parameters": LLAMA3_ROPE},
    "llama yarn rotary": {"family": "llama", "rope_parameters": YARN_ROPE},
    "llama linear rotary": {"family": "llama", "rope_parameters": LINEAR_ROPE},
    "llama dynamic rotary": {"family": "llama", "rope_parameters": DYNAMIC_ROPE},
    "llama narrow heads": {"family": "llama", "head_dim": 6},
    "llama odd heads": {"family": "llama", "head_dim": 24, "attention_bias": True},
    "gpt2 narrow heads": {"family": "gpt2", "n_embd": 60},
    "gpt_neox odd parts": {"family": "gpt_neox", "rotary_pct": 0.25},
    "phi odd parts": {"family": "phi", "partial_rotary_factor": 0.4},
    "llama one layer": {"family": "llama", "num_hidden_layers": 1, "rms_norm_eps": 1e-3},
    "llama gelu": {"family": "llama", "hidden_act": "gelu"},
    "mistral without window": {"family": "mistral", "sliding_window": None},
    "mistral narrow window": {"family": "mistral", "sliding_window": 1},
    "qwen2 without window": {"family": "qwen2", "use_sliding_window": False},
    "gemma biased": {"family": "gemma", "attention_bias": True},
    "gemma2 without softcap": {
        "family": "gemma2",
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    },
    "gemma2 tight softcap": {
        "family": "gemma2",
        "attn_logit_softcapping": 1.0,
        "final_logit_softcapping": 2.0,
    },
    "gemma3 scaled rotary": {
        "family": "gemma3",
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "gpt2 untied": {"family": "gpt2", "is_tied": False},
    "gpt2 scaled by layer": {"family": "gpt2", "scale_attn_by_inverse_layer_idx": True},
    "gpt2 unscaled": {"family": "gpt2", "scale_attn_weights": False},
    "gpt2 relu": {"family": "gpt2", "activation_function": "relu", "n_inner": None},
    "gpt_neox untied, one after the other": {
        "family": "gpt_neox",
        "is_tied": False,
        "use_parallel_residual": False,
        "rotary_pct": 1.0,
    },
    "phi untied": {"family": "phi", "is_tied": False},
    "phi3 without window": {"family": "phi3", "sliding_window": None, "is_tied": False},
    "smollm3 with windows": {
        "family": "smollm3",
        "use_sliding_window": True,
        "sliding_window": 24,
    },
    "stablelm biased": {"family": "stablelm", "use_qkv_bias": True, "is_tied": False},
    "starcoder2 without bias": {"family": "starcoder2", "use_bias": False},
    "lstm untied, one layer": {"family": "lstm", "is_tied": False, "num_hidden_layers": 1},
    "gru untied, three layers": {"family": "gru", "is_tied": False, "num_hidden_layers": 3},
}


def load(checkpoint: Path) -> PreTrainedModel:
    return load_model(checkpoint, attn_implementation="eager")


def ratio(model: PreTrainedModel, session: ort.InferenceSession, max_model_len: int = 128) -> float:
    return measure_parity(model, session, max_model_len=max_model_len, max_query_len=32).ratio


def variant_ratio(
    tmp_path: Path, build: Callable[..., ort.InferenceSession], **settings: object
) -> float:
    checkpoint = make_tiny_checkpoint(tmp_path, **settings)
    return ratio(load(checkpoint), build(checkpoint))


@pytest.mark.parametrize("family", FAMILIES)
def test_graph_agrees_with_torch_in_every_order(
    tmp_path: Path, build: Callable[..., ort.InferenceSession], family: str
) -> None:
    assert variant_ratio(tmp_path, build, family=family) < LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_graph_of_other_settings_agrees_with_torch(
    tmp_path: Path, build: Callable[..., ort.InferenceSession], variant: str
) -> None:
    assert variant_ratio(tmp_path, build, **VARIANTS[variant]) < LIMIT


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("mistral", {"sliding_window": 23}),
        ("mistral", {"sliding_window": 25}),
        ("gemma2", {"attn_logit_softcapping": 25.0}),
        ("gemma3", {"query_pre_attn_scalar": 17}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ],
)
def test_parity_shows_another_setting(
    tmp_path: Path,
    build: Callable[..., ort.InferenceSession],
    family: str,
    settings: dict[str, object],
) -> None:
    session = build(make_tiny_checkpoint(tmp_path / "graph", family=family))
    model = load(make_tiny_checkpoint(tmp_path / "torch", family=family, **settings))

    assert ratio(model, session) > 10 * LIMIT


@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize("matrix", FAULTS)
def test_parity_shows_a_matrix_that_is_wrong_by_one_percent(
    tmp_path: Path, build: Callable[..., ort.InferenceSession], matrix: str, is_whole: bool
) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path, family="llama")
    model = load(checkpoint)
    weight = model.get_submodule(matrix).weight
    with torch.no_grad():
        (weight if is_whole else weight[: len(weight) // 8]).mul_(1.01)

    assert ratio(model, build(checkpoint)) > 10 * LIMIT


@pytest.mark.slow
def test_parity_of_real_weights(
    real_checkpoint: Path, build: Callable[..., ort.InferenceSession]
) -> None:
    session, model = build(real_checkpoint), load(real_checkpoint)

    assert ratio(model, session, max_model_len=100) < LIMIT
    for matrix in (
        "model.layers.0.self_attn.q_proj",  # moves the logits least of all
        "model.layers.15.mlp.down_proj",
        "model.embed_tokens",
    ):
        weight = model.get_submodule(matrix).weight
        rows = weight[: len(weight) // 9]
        right = rows.detach().clone()
        with torch.no_grad():
            rows.mul_(1.01)
            assert ratio(model, session, max_model_len=100) > 10 * LIMIT, matrix
            rows.copy_(right)


def test_parity_shows_a_single_wrong_weight(
    tiny_checkpoint: Path, tiny_session: ort.InferenceSession
) -> None:
    model = load(tiny_checkpoint)
    with torch.no_grad():
        model.model.layers[1].self_attn.k_norm.weight[0] += 0.05

    assert ratio(model, tiny_session) > 10 * LIMIT


def test_parity_refuses_what_is_no_number(
    tiny_checkpoint: Path, tiny_session: ort.InferenceSession
) -> None:
    model = load(tiny_checkpoint)
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan

    assert not ratio(model, tiny_session) <= LIMIT


def test_parity_names_both_distances(
    tiny_checkpoint: Path, tiny_session: ort.InferenceSession
) -> None:
    found = measure_parity(load(tiny_checkpoint), tiny_session, max_model_len=128, max_query_len=32)

    assert 1e-8 < found.torch_distance < 1e-5
    assert found.ratio == pytest.approx(found.graph_distance / found.torch_distance)


def test_parity_of_16_bit_shards_is_that_of_their_float32_values(
    tmp_path: Path, tiny_checkpoint: Path, build: Callable[..., ort.InferenceSession]
) -> None:
    make_tiny_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    load(tiny_checkpoint).to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size="100KB")

    found = ratio(load(tmp_path), build(tmp_path))

    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert found < LIMIT


def test_graph_agrees_with_torch_up_to_the_original_length_of_longrope(
    tmp_path: Path, build: Callable[..., ort.InferenceSession]
) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path, family="llama", rope_parameters=LONG_ROPE)
    model, session = load(checkpoint), build(checkpoint)

    assert ratio(model, session, max_model_len=96) < LIMIT
    assert ratio(model, session, max_model_len=128) > 10 * LIMIT


def test_parity_of_a_backbone_saved_without_its_head(
    tmp_path: Path, build: Callable[..., ort.InferenceSession]
) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path, family="gpt2")
    path = checkpoint / "model.safetensors"
    tensors = {name.removeprefix("transformer."): one for name, one in load_file(path).items()}
    mask = torch.ones(1, 1, 128, 128)  # as GPT-2's own files carry it
    save_file(tensors | {"h.0.attn.bias": mask}, path, metadata={"format": "pt"})

    assert ratio(load(checkpoint), build(checkpoint)) < LIMIT


@pytest.mark.parametrize("max_model_len", [32, 48, 128, 4096])
@pytest.mark.parametrize("max_query_len", [16, 32, 256])
@pytest.mark.parametrize("is_recurrent", [False, True])
def test_parity_steps_stay_within_the_limits(
    max_model_len: int, max_query_len: int, is_recurrent: bool
) -> None:
    lengths = dict.fromkeys(range(4), 0)
    capacity = max_model_len + max_query_len

    for step in parity_steps(max_model_len, max_query_len, is_recurrent=is_recurrent):
        assert not (is_recurrent and step.roll_back)
        for slot in step.free:
            lengths[slot] = 0
        for slot, tokens in step.roll_back.items():
            lengths[slot] -= tokens
        if step.copy:
            source, target, given = step.copy
            tokens = lengths[source] if given is None else given
            assert (given is None) == is_recurrent
            assert lengths[source] >= tokens and lengths[target] == 0
            lengths[target] = tokens
        width = max(step.new_tokens.values())
        assert 1 <= width <= max_query_len
        assert max(lengths.values()) + width <= capacity
        for slot, tokens in step.new_tokens.items():
            lengths[slot] += tokens
        assert all(0 <= length <= max_model_len for length in lengths.values())
    assert lengths[1] == min(max_model_len, 384)
