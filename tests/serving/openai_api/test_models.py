"""The model list as the official client reads it."""

import openai
import pytest

from everloop.sampling_defaults import IMPORTED
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


def test_everloop_and_names_of_earlier_champions_mean_the_champion(client, engine, app):
    engine.current.tag = "tuned:v2"
    app.state.api.served_names.update({"smollm2", "tuned"})
    asked = [{"role": "user", "content": "Hi"}]
    for name in ("everloop", "smollm2", "tuned", "tuned:v2"):
        answer = client.chat.completions.create(model=name, messages=asked)
        assert answer.model == "tuned:v2"
        assert client.models.retrieve(name).id == name
    names = ["tuned", "everloop", "smollm2", "tuned:v2"]
    assert [model.id for model in client.models.list()] == names
    with pytest.raises(openai.NotFoundError, match="this server has 'tuned'"):
        client.chat.completions.create(model="smollm2:v1", messages=asked)


def test_models_show_their_sampling_defaults(client, engine):
    assert client.models.retrieve("everloop").sampling["temperature"] == 1.0
    engine.current.sampling = IMPORTED
    shown = client.models.retrieve("everloop").sampling
    assert (shown["temperature"], shown["top_p"], shown["source"]) == (0.7, 0.9, "imported")
