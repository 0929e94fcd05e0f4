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
    ],
)
def test_sampling_params_refuse_a_value_out_of_range_by_name(field: str, value: object) -> None:
    with pytest.raises(DataError, match=f"^{field} "):
        SamplingParams(**{"max_tokens": 1, field: value})


def test_sampling_params_accept_the_limits() -> None:
    SamplingParams(max_tokens=1, temperature=0.0, top_k=1, top_p=1.0, seed=-(2**63), stop=("\n",))


def test_is_greedy_only_when_one_token_can_be_chosen() -> None:
    assert SamplingParams(max_tokens=1, temperature=0.0).is_greedy
    assert SamplingParams(max_tokens=1, temperature=1e-9).is_greedy
    assert SamplingParams(max_tokens=1, top_k=1).is_greedy
    assert not SamplingParams(max_tokens=1, temperature=0.01).is_greedy
    assert not SamplingParams(max_tokens=1, top_k=2, top_p=0.01).is_greedy
