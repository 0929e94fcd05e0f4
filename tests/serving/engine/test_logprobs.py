"""Log-probabilities against a log-softmax in float64."""

import numpy as np
import pytest

from serving.engine.logprobs import log_sum_exp, token_logprobs


@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize("size", [1, 259, 49_152])
def test_token_logprobs_equal_the_log_softmax(size: int, scale: float) -> None:
    random = np.random.default_rng(size)
    logits = (random.standard_normal(size) * scale + 3 * scale).astype(np.float32)
    exact = logits.astype(np.float64)
    expected = exact - np.logaddexp.reduce(exact)
    token = int(random.integers(size))
    found = token_logprobs(logits, token, 20)
    order = np.argsort(-exact, kind="stable")[:20]
    assert found.token_id == token
    assert found.logprob == pytest.approx(expected[token], abs=2e-6)
    assert [token for token, _ in found.top] == order.tolist()
    assert [logprob for _, logprob in found.top] == pytest.approx(expected[order], abs=2e-6)


def test_token_logprobs_sum_to_one() -> None:
    logits = np.random.default_rng(0).standard_normal(49_152).astype(np.float32) * 2
    all_ = np.array([logprob for _, logprob in token_logprobs(logits, 0, 49_152).top])
    assert np.exp(all_).sum() == pytest.approx(1, abs=1e-6)


def test_token_logprobs_without_alternatives_have_an_empty_top() -> None:
    found = token_logprobs(np.zeros(4, np.float32), 1, 0)
    assert found.top == ()
    assert found.logprob == pytest.approx(-np.log(4))


def test_log_sum_exp_does_not_overflow() -> None:
    logits = np.array([1e30, 1e30, -1e30], np.float32)
    assert log_sum_exp(logits) == pytest.approx(float(logits[0]))
