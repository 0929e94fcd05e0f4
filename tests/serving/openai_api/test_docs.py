"""docs/api.md names every route, field, setting and error code that there is."""

import json
import re
from pathlib import Path

import pytest

from everloop.records import METRICS
from serving.openai_api.chat_request import ChatCompletionRequest
from serving.openai_api.completion_request import CompletionRequest
from serving.openai_api.config import ServerConfig
from serving.openai_api.embeddings import EmbeddingRequest
from serving.openai_api.feedback import FeedbackRequest
from serving.openai_api.structured import StructuredOutputs
from serving.openai_api.tokenize import DetokenizeRequest, TokenizeRequest

ROOT = Path(__file__).parents[3]
PAGE = re.sub(r"```.*?```", "", (ROOT / "docs" / "api.md").read_text("utf-8"), flags=re.DOTALL)
NAMED = set(re.findall(r"`([^`]+)`", PAGE))
WORDS = {word for text in NAMED for word in re.findall(r"[\w/{}.-]+", text)}


@pytest.mark.parametrize(
    "schema",
    [ChatCompletionRequest, CompletionRequest, EmbeddingRequest, FeedbackRequest, TokenizeRequest,
     DetokenizeRequest, StructuredOutputs, ServerConfig],
)  # fmt: skip
def test_every_field_is_documented(schema):
    names = {field.alias or name for name, field in schema.model_fields.items()}
    assert names - WORDS == set()


def test_every_route_is_documented(app):
    assert {route.path for route in app.routes} - WORDS == set()


def test_every_error_code_is_documented():
    sources = (ROOT / "serving" / "openai_api").glob("*.py")
    codes = {
        code
        for path in sources
        for code in re.findall(r'code="(\w+)"|Error, \d+, "(\w+)"', path.read_text("utf-8"))
    }
    found = {code for pair in codes for code in pair if code}
    assert len(found) > 12
    assert found - WORDS == set()


def test_every_example_of_feedback_is_taken(http, client):
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    block = re.search(r"## Feedback.*?```json\n(.*?)```", text, flags=re.DOTALL)
    assert block is not None
    examples = [json.loads(line) for line in block[1].strip().split("\n")]
    assert {example["metric_name"] for example in examples} >= set(METRICS)
    answer = client.chat.completions.create(
        model="everloop", messages=[{"role": "user", "content": "Hi"}]
    )
    for example in examples:
        reply = http.post("/v1/feedback", json=example | {"inference_id": answer.id})
        assert reply.status_code == 200, reply.text
