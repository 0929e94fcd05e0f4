import numpy as np

from training.export.divergence import Reference, compare


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64))
    return weights / weights.sum(axis=-1, keepdims=True)


def test_divergence_is_that_of_the_definition() -> None:
    random = np.random.default_rng(0)
    exact = random.normal(size=(5, 300)).astype(np.float32)
    other = exact + random.normal(size=(5, 300)).astype(np.float32) / 10 + 3  # a shift is nothing
    p, q = softmax(exact), softmax(other)
    expected = (p * np.log(p / q)).sum(axis=-1)
    np.testing.assert_allclose(Reference.of(exact).divergence(other), expected, rtol=1e-4)


def test_a_tiny_divergence_is_not_lost_in_rounding() -> None:
    exact = np.array([[10.0, 9.0, -4.0]], np.float32)
    other = exact + np.array([[2**-9, 0.0, 0.0]], np.float32)
    p, q = softmax(exact), softmax(other)
    expected = (p * np.log(p / q)).sum(axis=-1)  # 3.8e-7
    np.testing.assert_allclose(Reference.of(exact).divergence(other), expected, rtol=1e-2)


def test_agreement_is_of_the_likeliest_token() -> None:
    reference = Reference.of(np.array([[0.0, 2.0, 1.0], [5.0, 0.0, 0.0]], np.float32))
    given = np.array([[0.0, 9.0, 8.0], [0.0, 0.1, 0.0]], np.float32)
    assert reference.agrees(given).tolist() == [True, False]
    assert reference[1:].agrees(given[:1]).tolist() == [False]


def test_a_divergence_beyond_float32_is_that_of_the_definition() -> None:
    exact = np.array([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]], np.float32)
    other = np.array([[200.0, 1.0, 2.0], [0.5, 1.0, 2.0]], np.float32)
    p, q = softmax(exact), softmax(other)
    expected = (p * np.log(p / q)).sum(axis=-1)  # 179.8 nats
    np.testing.assert_allclose(Reference.of(exact).divergence(other), expected, rtol=1e-4)


def test_compare_joins_the_pieces_that_it_works_on() -> None:
    random = np.random.default_rng(1)
    exact = random.normal(size=(9, 100_000)).astype(np.float32)  # two places at a time
    other = exact + random.normal(size=exact.shape).astype(np.float32)
    found, whole = compare(exact, other), Reference.of(exact)
    np.testing.assert_allclose(found.divergences, whole.divergence(other), rtol=1e-4)
    assert found.agreements.tolist() == whole.agrees(other).tolist()
    assert 0 < found.agreements.sum() < 9


def test_compare_says_that_broken_logits_are_no_number() -> None:
    exact = np.zeros((2, 3), np.float32)
    assert np.isnan(compare(exact, np.full((2, 3), np.nan, np.float32)).divergences).all()
