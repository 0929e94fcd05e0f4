import json
from pathlib import Path

import numpy as np
import pytest

from everloop.errors import ArtifactError
from tests.tiny_model import make_tiny_checkpoint
from training.export.architecture import (
    Attention,
    AttentionLayer,
    Recurrence,
    read_architecture,
)
from training.export.families import FAMILIES


def change_config(checkpoint: Path, **values: object) -> None:
    path = checkpoint / "config.json"
    content = json.loads(path.read_text(encoding="utf-8")) | values
    path.write_text(json.dumps(content), encoding="utf-8")


def test_read_architecture_gives_names_and_sizes(tiny_checkpoint: Path) -> None:
    architecture = read_architecture(tiny_checkpoint)

    assert architecture.model_type == "qwen3"
    assert architecture.family.query_norm == "self_attn.q_norm"
    body = architecture.body
    assert isinstance(body, Attention)
    assert (architecture.n_layer, body.n_head, body.n_kv_head) == (2, 4, 2)
    assert (architecture.n_embd, body.head_dim, body.n_ff) == (64, 32, 96)
    assert body.layers == (AttentionLayer(32**-0.5, None, ""),) * 2
    assert architecture.is_tied


def test_read_architecture_derives_the_head_width(tmp_path: Path) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path, family="llama")
    change_config(checkpoint, head_dim=None)

    assert read_architecture(checkpoint).body.head_dim == 16


def test_rotary_table_follows_theta(tmp_path: Path) -> None:
    settings = {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}
    checkpoint = make_tiny_checkpoint(tmp_path, family="llama", **settings)

    cosines, sines = read_architecture(checkpoint).body.rotaries[""].table(3, 8)

    assert cosines.shape == sines.shape == (3, 8)
    # Pair 4 of 8 turns by theta ** -0.5 = 0.1 radians per position.
    assert cosines[2, 4] == pytest.approx(np.cos(0.2), abs=1e-7)
    assert sines[2, 0] == pytest.approx(np.sin(2.0), abs=1e-7)


def test_read_architecture_names_what_is_supported(tmp_path: Path) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path)
    change_config(checkpoint, architectures=["MambaForCausalLM"])

    with pytest.raises(ArtifactError, match="MambaForCausalLM cannot be exported; supported: "):
        read_architecture(checkpoint)
    assert sorted(FAMILIES) == [
        "GPT2LMHeadModel", "GPTNeoForCausalLM", "GPTNeoXForCausalLM", "Gemma2ForCausalLM",
        "Gemma3ForCausalLM", "GemmaForCausalLM", "GraniteForCausalLM", "LlamaForCausalLM",
        "MistralForCausalLM", "OPTForCausalLM", "Olmo2ForCausalLM", "Phi3ForCausalLM",
        "PhiForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "RnnForCausalLM",
        "SmolLM3ForCausalLM", "StableLmForCausalLM", "Starcoder2ForCausalLM",
    ]  # fmt: skip


LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0 + number / 10 for number in range(8)],
    "long_factor": [4.0] * 8,
    "original_max_position_embeddings": 96,
}


@pytest.mark.parametrize(
    ("rope", "longest"),
    [
        (LONGROPE, 96),
        ({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, 128),
        ({"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}, 128),
    ],
)
def test_rotary_that_would_change_with_the_length_bounds_it(
    tmp_path: Path, rope: dict[str, object], longest: int
) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path, family="llama", rope_parameters=rope)

    assert read_architecture(checkpoint).max_seq_len == longest


def test_recurrent_model_has_no_longest_text(tmp_path: Path) -> None:
    architecture = read_architecture(make_tiny_checkpoint(tmp_path, family="gru"))

    assert architecture.body == Recurrence("gru")
    assert (architecture.model_type, architecture.max_seq_len) == ("gru", 4096)
    assert not architecture.is_length_bound


def test_rotary_of_older_configs_is_read(tmp_path: Path) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path, family="llama")
    change_config(
        checkpoint,
        rope_parameters=None,
        rope_theta=100.0,
        rope_scaling={"type": "linear", "factor": 2.0},
    )

    rotary = read_architecture(checkpoint).body.rotaries[""]

    assert rotary.inverse_frequencies[4] == pytest.approx(0.1 / 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_act": "mish"}, "activation mish cannot be exported; supported: silu, "),
        ({"quantization_config": {"bits": 4}}, "quantization_config .* cannot be exported"),
        ({"per_layer_config": {"0": {"head_dim": 8}}}, "per_layer_config .* cannot be exported"),
        ({"do_layer_norm_before": False}, "do_layer_norm_before False cannot be exported"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention True cannot be"),
        ({"head_dim": 24}, "divisible by 16 where heads are normalized, got 24"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "'chunked_attention'.* cannot"),
        (
            {"layer_types": ["full_attention", "sliding_attention"]},
            "sliding_attention without a sliding_window",
        ),
        (
            {"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e4}},
            "rope_type proportional cannot be exported; supported: default, linear, ",
        ),
        (
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            r"partial_rotary_factor 0\.5 cannot be exported",
        ),
        ({"num_hidden_layers": "two"}, "refuses it: .*num_hidden_layers"),
    ],
)
def test_read_architecture_refuses_what_the_graph_cannot_say(
    tmp_path: Path, values: dict[str, object], message: str
) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path)
    change_config(checkpoint, **values)

    with pytest.raises(ArtifactError, match=message):
        read_architecture(checkpoint)


def test_read_architecture_refuses_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"config\.json is missing"):
        read_architecture(tmp_path)


def test_read_architecture_refuses_broken_json(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{", encoding="utf-8")

    with pytest.raises(ArtifactError, match="not readable as JSON"):
        read_architecture(tmp_path)
