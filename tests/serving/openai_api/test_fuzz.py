"""Whatever JSON comes, the answer is 200 or a 4xx in the error form."""

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.openai_api.unsupported import CHAT, COMPLETIONS

FIELDS = sorted(
    {*CHAT, *COMPLETIONS}
    | {
        "model", "messages", "prompt", "max_tokens", "max_completion_tokens", "temperature",
        "top_p", "top_k", "seed", "stop", "ignore_eos", "stream", "stream_options", "metadata",
        "store", "inference_id", "episode_id", "metric_name", "value", "tags", "source", "dryrun",
    }
)  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8), st.sampled_from(["everloop", "user", "text", "thumbs"]),
)  # fmt: skip
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "x"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)
VALID = {
    "/v1/chat/completions": {"model": "everloop", "messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"model": "everloop", "prompt": "Hi"},
    "/v1/feedback": {"inference_id": "a", "metric_name": "thumbs", "value": True},
}


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    path=st.sampled_from(sorted(VALID)),
    fields=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3),
)
def test_any_json_is_answered(http, path, fields):
    reply = http.post(path, json=VALID[path] | fields)
    assert reply.status_code < 500, reply.text
    if reply.status_code != 200:
        assert set(json.loads(reply.content)["error"]) == {"message", "type", "param", "code"}


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=st.binary(max_size=60))
def test_any_bytes_are_answered(http, body):
    reply = http.post("/v1/chat/completions", content=body)
    assert reply.status_code == 400
