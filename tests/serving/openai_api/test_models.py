"""The model list as the official client reads it."""

import openai
import pytest

from tests.serving.fakes import TAG


def test_models_lists_the_name_and_the_full_tag(client):
    assert [model.id for model in client.models.list()] == ["everloop", TAG]


def test_models_created_comes_from_the_version(client):
    assert client.models.retrieve("everloop").created == 1795515300  # 2026-11-24 10:15:00 UTC


def test_models_retrieves_by_tag(client):
    model = client.models.retrieve(TAG)
    assert (model.id, model.object, model.owned_by) == (TAG, "model", "everloop")


def test_models_unknown_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other")
    assert caught.value.code == "model_not_found"


def test_models_is_empty_while_none_is_loaded(client, engine):
    engine.current = None
    assert client.models.list().data == []


def test_models_of_another_form_of_version_have_no_date(client, engine):
    engine.current.tag = "everloop:imported"
    assert client.models.retrieve("everloop").created == 0
