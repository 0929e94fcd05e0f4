import pytest

from everloop.errors import DataError
from serving.engine.sampling_params import SamplingParams


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("stop", ("a", "")),
        ("stop", ("a", "b", "c", "d", "e")),
        ("stop", ("a", "b" * 257)),
        ("min_tokens", -1),
        ("min_tokens", 2),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("min_p", float("nan")),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e-300),
        ("repetition_penalty", float("inf")),
        ("frequency_penalty", 2.1),
        ("presence_penalty", -2.1),
        ("logit_bias", {5: 101.0}),
        ("logit_bias", {5: float("nan")}),
        ("logprobs", 21),
        ("logprobs", -1),
        ("prompt_logprobs", 21),
    ],
)
def test_sampling_params_refuse_a_value_out_of_range_by_name(field: str, value: object) -> None:
    with pytest.raises(DataError, match=f"^{field} "):
        SamplingParams(**{"max_tokens": 1, field: value})


def test_sampling_params_accept_the_limits() -> None:
    SamplingParams(max_tokens=1, temperature=0.0, top_k=1, top_p=1.0, seed=-(2**63), stop=("\n",))


def test_sampling_params_accept_the_limits_of_every_penalty() -> None:
    SamplingParams(
        max_tokens=2,
        min_tokens=2,
        min_p=1.0,
        repetition_penalty=0.01,
        frequency_penalty=-2.0,
        presence_penalty=2.0,
        logit_bias={0: -100.0, 7: 100.0},
        logprobs=0,
        prompt_logprobs=20,
    )


@pytest.mark.parametrize(
    ("field", "value"), [("logit_bias", {10: 1.0}), ("stop_token_ids", (3, -1))]
)
def test_check_vocabulary_refuses_an_unknown_token_by_field(field: str, value: object) -> None:
    params = SamplingParams(**{"max_tokens": 1, field: value})
    with pytest.raises(DataError, match=f"^{field} names token .* knows 0 to 9"):
        params.check_vocabulary(10)
    SamplingParams(max_tokens=1, logit_bias={9: 1.0}, stop_token_ids=(0,)).check_vocabulary(10)


def test_sampling_params_are_hashable() -> None:
    assert len({SamplingParams(max_tokens=1), SamplingParams(max_tokens=1)}) == 1


def test_is_greedy_only_when_one_token_can_be_chosen() -> None:
    assert SamplingParams(max_tokens=1, temperature=0.0).is_greedy
    assert SamplingParams(max_tokens=1, temperature=1e-9).is_greedy
    assert SamplingParams(max_tokens=1, top_k=1).is_greedy
    assert not SamplingParams(max_tokens=1, temperature=0.01).is_greedy
    assert not SamplingParams(max_tokens=1, top_k=2, top_p=0.01).is_greedy
