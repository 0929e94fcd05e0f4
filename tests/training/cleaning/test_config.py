import pytest
from pydantic import ValidationError

from training.cleaning.config import CleanConfig


def test_config_has_no_threshold_that_divides_by_zero() -> None:
    for key in ("min_words", "min_characters"):
        with pytest.raises(ValidationError, match="greater than or equal to 1"):
            CleanConfig.model_validate({key: 0})


def test_config_explains_every_threshold() -> None:
    assert all(field.description for field in CleanConfig.model_fields.values())
