import pytest
from pydantic import ValidationError

from everloop.errors import ConfigError
from everloop.settings import RunFile
from training.config import ModelConfig, PretrainConfig, SftConfig


@pytest.mark.parametrize("given", [{}, {"max_steps": 5, "minutes": 1.0}])
def test_pretrain_config_takes_exactly_one_budget(given: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="exactly one of max_steps, minutes must be set"):
        PretrainConfig(**given)


def test_sft_config_takes_epochs_as_budget() -> None:
    assert SftConfig(epochs=2).max_steps is None
    with pytest.raises(ValidationError, match="got minutes=1, epochs=2"):
        SftConfig(epochs=2, minutes=1)


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
