"""The description is OpenAPI 3.1, names every route, and matches what the API takes and gives."""

import json

import pytest


@pytest.fixture
def document(http) -> dict:
    return http.get("/openapi.json").json()


def references(node) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if "$ref" in node else set()
        return own.union(*map(references, node.values()))
    return set().union(*map(references, node)) if isinstance(node, list) else set()


def test_openapi_names_every_route_of_the_api(document, app):
    routes = {
        route.path for route in app.routes if route.path.startswith(("/v1/", "/tok", "/detok"))
    }
    assert set(document["paths"]) == routes
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]["/v1/feedback"]) == {"post", "get"}


def test_openapi_references_exist(document):
    schemas = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references(document) <= schemas


def test_openapi_required_keys_are_those_of_the_wire(document, http):
    body = {"model": "everloop", "messages": [{"role": "user", "content": "Hi"}]}
    reply = http.post("/v1/chat/completions", json=body).json()
    schema = document["components"]["schemas"]["ChatCompletion"]
    assert set(schema["required"]) == set(reply)


def test_openapi_shows_what_content_and_stop_may_be(document):
    schemas = document["components"]["schemas"]
    content = schemas["ChatMessage"]["properties"]["content"]
    assert [kind["type"] for kind in content["anyOf"]] == ["string", "array", "null"]
    assert '"string"' in json.dumps(schemas["ChatCompletionRequest"]["properties"]["stop"])


def test_openapi_names_the_headers(document):
    names = {
        path: {parameter["name"] for parameter in operations["post"]["parameters"]}
        for path, operations in document["paths"].items()
        if "post" in operations
    }
    assert names["/v1/chat/completions"] == {"x-request-id", "Idempotency-Key", "x-request-timeout"}
    assert names["/v1/feedback"] == names["/tokenize"] == {"x-request-id", "Idempotency-Key"}


def test_openapi_describes_the_stream(document):
    post = document["paths"]["/v1/chat/completions"]["post"]
    assert set(post["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
