import pytest
import torch

from training.config import ModelConfig, PretrainConfig
from training.models import (
    SHAPES,
    LearningRates,
    build_model,
    describe,
    learning_rates,
    model_config,
)
from training.tokens import SpecialTokenIds

SPECIAL = SpecialTokenIds(bos=0, pad=0, eos=(0, 2))


def test_shapes_fit_the_export() -> None:
    for shape in SHAPES.values():
        assert shape.n_embd % 32 == shape.n_ff % 32 == shape.head_dim % 16 == 0
        assert shape.n_embd == shape.n_head * shape.head_dim


@pytest.mark.parametrize(
    ("size", "parameters"),
    [("1m", 802_816), ("3m", 3_211_264), ("10m", 10_616_832), ("30m", 31_850_496)],
)
def test_size_is_the_number_of_parameters_in_layers(size: str, parameters: int) -> None:
    assert SHAPES[size].layer_parameters == parameters


def test_model_config_is_qwen3_with_tied_embeddings() -> None:
    config = model_config(ModelConfig(size="3m", context_length=128), 4096, SPECIAL)
    assert config.model_type == "qwen3"
    assert config.tie_word_embeddings
    assert (config.hidden_size, config.num_hidden_layers, config.head_dim) == (256, 4, 64)
    assert (config.max_position_embeddings, config.eos_token_id) == (128, [0, 2])
    assert config.rope_parameters["rope_theta"] == 10_000.0


def test_build_model_depends_on_the_seed_alone() -> None:
    first, again, other = (
        build_model(ModelConfig(size="1m"), 300, SPECIAL, seed).lm_head.weight for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_build_model_starts_undecided_and_with_small_residual_projections() -> None:
    model = build_model(ModelConfig(size="1m"), 300, SPECIAL, 0)
    ids = torch.arange(40)[None]
    assert model(input_ids=ids, labels=ids).loss.item() == pytest.approx(5.7, abs=0.2)  # ln 300
    layer = model.model.layers[0]
    ratio = layer.mlp.down_proj.weight.std() / layer.mlp.up_proj.weight.std()
    assert ratio.item() == pytest.approx(0.354, abs=0.02)  # 1 / sqrt(2 * 4 layers)


def test_learning_rates_follow_the_width_unless_set() -> None:
    derived = PretrainConfig(max_steps=1)
    assert learning_rates(256, derived) == LearningRates(muon=0.012, adamw=0.02)
    assert learning_rates(1024, derived) == LearningRates(muon=0.012, adamw=0.01)
    assert learning_rates(256, PretrainConfig(max_steps=1, muon_learning_rate=0.03)).muon == 0.03


def test_describe_names_size_and_learning_rates() -> None:
    text = describe(ModelConfig(), PretrainConfig(max_steps=1), 4096)
    assert "3m: 4.3 M parameters (4 layers, width 256, 4 heads)" in text
    assert "Muon 0.012, AdamW 0.02" in text
