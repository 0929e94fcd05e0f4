"""Feedback in TensorZero's shape: kept before it is acknowledged, refused with a reason."""

import pytest

from everloop.errors import StoreError

ASK = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def answer_id(client) -> str:
    return client.chat.completions.create(model="everloop", messages=ASK).id


def give(http, **fields):
    return http.post("/v1/feedback", json={"metric_name": "thumbs", "value": True} | fields)


@pytest.mark.parametrize(
    ("metric", "value", "rating"),
    [
        ("thumbs", True, "positive"),
        ("thumbs", False, "negative"),
        ("comment", "Too short.", "comment"),
        ("demonstration", "The better answer.", "demonstration"),
        ("accuracy", 0.75, "other"),
        ("accuracy", 3, "other"),
    ],
)
def test_feedback_is_kept(http, recorder, observer, answer_id, metric, value, rating):
    reply = give(http, inference_id=answer_id, metric_name=metric, value=value)
    assert reply.status_code == 200
    kept = recorder.feedback[0]
    assert reply.json() == {"feedback_id": kept.id}
    assert (kept.inference_id, kept.metric_name, kept.value) == (answer_id, metric, value)
    assert kept.source == "HUMAN"
    assert observer.ratings == [rating]


def test_feedback_keeps_booleans_apart_from_numbers(http, recorder, answer_id):
    give(http, inference_id=answer_id, value=1)
    assert type(recorder.feedback[0].value) is float


def test_feedback_about_an_episode(http, recorder):
    reply = give(http, episode_id="chat-1", tags={"from": "test"}, source="CODE")
    assert reply.status_code == 200
    kept = recorder.feedback[0]
    assert (kept.episode_id, kept.tags, kept.source) == ("chat-1", {"from": "test"}, "CODE")


def test_feedback_dryrun_keeps_nothing(http, recorder, observer, answer_id):
    reply = give(http, inference_id=answer_id, dryrun=True)
    assert reply.json()["feedback_id"].startswith("feedback-")
    assert (recorder.feedback, observer.ratings) == ([], [])


def test_feedback_dryrun_refuses_what_a_run_refuses(http, recorder, answer_id):
    wrong = [
        {"inference_id": "chatcmpl-none"},
        {"inference_id": answer_id, "metric_name": "thumbs_up"},
        {"inference_id": answer_id, "metric_name": "comment", "value": True},
        {"inference_id": answer_id, "value": "good"},
    ]
    for fields in wrong:
        real, dry = give(http, **fields), give(http, **fields, dryrun=True)
        assert dry.status_code == real.status_code != 200
        assert dry.json() == real.json()
    recorder.failure = StoreError("the store is away")
    assert give(http, inference_id=answer_id, dryrun=True).status_code == 503


@pytest.mark.parametrize(
    ("written", "meant"),
    [("thumb", "thumbs"), ("Thumbs", "thumbs"), ("thumbs_up", "thumbs"), ("demonstraton",
     "demonstration"), ("comments", "comment")],
)  # fmt: skip
def test_feedback_whose_metric_is_mistyped_is_refused(http, recorder, answer_id, written, meant):
    value = "A better answer." if meant != "thumbs" else True
    reply = give(http, inference_id=answer_id, metric_name=written, value=value)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["param"] == "metric_name"
    assert f"did you mean {meant}?" in error["message"]
    assert recorder.feedback == []


@pytest.mark.parametrize(
    "metric", ["accuracy", "rating", "helpful", "comment_length", "thumb_size"]
)
def test_feedback_of_a_metric_of_ones_own_is_kept_and_teaches_nothing(
    http, observer, answer_id, metric
):
    assert give(http, inference_id=answer_id, metric_name=metric).status_code == 200
    assert observer.ratings == ["other"]


def test_feedback_on_an_unknown_inference_is_not_found(http, observer):
    reply = give(http, inference_id="chatcmpl-none")
    assert reply.status_code == 404
    assert "chatcmpl-none" in reply.json()["error"]["message"]
    assert observer.ratings == []


def test_feedback_that_cannot_be_kept_is_unavailable(http, recorder, answer_id):
    recorder.failure = StoreError("the store is away")
    reply = give(http, inference_id=answer_id)
    assert reply.status_code == 503
    assert reply.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "inference_id"),
        ({"inference_id": "a", "episode_id": "b"}, "inference_id"),
        ({"inference_id": 7}, "inference_id"),
        ({"inference_id": "a", "metric_name": ""}, "metric_name"),
        ({"inference_id": "a", "metric_name": "comment"}, "value"),
        ({"inference_id": "a", "metric_name": "demonstration", "value": "  "}, "value"),
        ({"inference_id": "a", "value": "good"}, "value"),
        ({"inference_id": "a", "tags": {"a": 1}}, "tags.a"),
        ({"inference_id": "a", "source": "ALIEN"}, "source"),
    ],
)
def test_feedback_wrong_is_refused_by_name(http, fields, param):
    reply = give(http, **fields)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


@pytest.mark.parametrize("value", [["x"], {}, None])
def test_feedback_of_no_value_type_is_refused(http, value):
    reply = give(http, inference_id="a", value=value)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "value"


def test_feedback_list_is_newest_first_and_limited(http, answer_id):
    for value in (True, False, True):
        give(http, inference_id=answer_id, value=value)
    give(http, episode_id="other")
    reply = http.get("/v1/feedback", params={"inference_id": answer_id, "limit": 2}).json()
    assert reply["object"] == "list"
    assert [row["value"] for row in reply["data"]] == [True, False]
    assert set(reply["data"][0]) == {
        "id", "created_at", "inference_id", "episode_id", "metric_name", "value", "tags", "source",
    }  # fmt: skip


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "", "²", "9" * 5000])
def test_feedback_list_refuses_other_limits(http, limit):
    reply = http.get("/v1/feedback", params={"limit": limit})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "limit"
