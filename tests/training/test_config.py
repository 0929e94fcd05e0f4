import pytest
from pydantic import ValidationError

from everloop.errors import ConfigError
from everloop.settings import RunFile
from training.config import ModelConfig, PretrainConfig, SftConfig


def test_a_run_without_a_budget_ends_after_minutes() -> None:
    assert (PretrainConfig().minutes, PretrainConfig().max_steps) == (2.0, None)
    assert (SftConfig().minutes, SftConfig().epochs) == (1.0, None)


def test_a_given_budget_is_not_cut_short() -> None:
    assert PretrainConfig(max_steps=5).minutes is None
    assert SftConfig(epochs=2).minutes is None


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        PretrainConfig(minutes=0)


def test_model_config_names_known_sizes_for_an_unknown_one() -> None:
    run = RunFile.load(None, ("model.size=2m",))
    with pytest.raises(ConfigError, match=r"model.size: .*'1m', '3m', '10m'.*got '2m'"):
        run.table("model", ModelConfig)


def test_pretrain_config_names_the_nearest_key() -> None:
    run = RunFile.load(None, ("pretrain.minute=2",))
    with pytest.raises(ConfigError, match=r"unknown key pretrain\.minute; did you mean minutes"):
        run.table("pretrain", PretrainConfig)


def test_every_key_is_explained() -> None:
    for config in (ModelConfig, PretrainConfig, SftConfig):
        assert all(field.description for field in config.model_fields.values())
