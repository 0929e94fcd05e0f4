"""A filled template is what the model itself would have written."""

from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from serving.openai_api.json_template import TEXT_MARK, TEXT_MARK_JSON, JsonTemplate
from serving.openai_api.responses import ChunkChoice, Delta


def chunk(text: str) -> bytes:
    delta = Delta(content=text)
    return ChunkChoice(index=3, delta=delta, logprobs=None, finish_reason=None).to_json()


@given(st.text(st.characters(codec="utf-8")))
def test_filled_template_is_the_models_own_json(text):
    template = JsonTemplate(chunk(TEXT_MARK), TEXT_MARK_JSON)
    assert template.fill(to_json(text)) == chunk(text)
