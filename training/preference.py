"""Does a model prefer what people approved? Accuracy over pairs, area under the ROC over ratings.

A model's opinion of an answer is its log-probability given the prompt. A stock phrase is likely
however little people like it; so after tuning one looks at how far the opinion moved from the model
before: the implicit reward of KTO and DPO.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from everloop.errors import DataError
from everloop.records import DatasetRow
from training.preference_rows import encode_pairs, encode_rated
from training.scoring import log_likelihoods

Scores = npt.NDArray[np.float64]
Measure = Callable[[npt.NDArray[np.int64]], float]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float


def rating_scores(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[DatasetRow],
    *,
    split: str,
) -> tuple[Scores, npt.NDArray[np.bool_]]:
    """The model's opinion of every rated answer, nats per token, and whether people approved it."""
    length = network.config.max_position_embeddings
    encoded = encode_rated(rows, tokenizer, length, split=split).rows
    sums = log_likelihoods(network, [(row.prompt_ids, row.completion_ids) for row in encoded])
    sizes = np.array([len(row.completion_ids) for row in encoded])
    return sums / sizes, np.array([row.label for row in encoded])


def pair_scores(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[DatasetRow],
    *,
    split: str,
) -> Scores:
    """By how many nats the model finds each approved answer likelier than the refused one."""
    length = network.config.max_position_embeddings
    encoded = encode_pairs(rows, tokenizer, length, split=split).rows
    sides = [(row.prompt_ids, row.chosen_ids) for row in encoded]
    sides += [(row.prompt_ids, row.rejected_ids) for row in encoded]
    sums = log_likelihoods(network, sides)
    return sums[: len(encoded)] - sums[len(encoded) :]


def accuracy(margins: Scores, *, seed: int = 0) -> Estimate:
    """Share of pairs in which the approved answer is the likelier one; a tie counts half."""
    wins = (margins > 0) + 0.5 * (margins == 0)
    means = _resampled(len(wins), seed, lambda chosen: float(wins[chosen].mean()))
    return Estimate(float(wins.mean()), *means)


def area_under_roc(scores: Scores, approved: npt.NDArray[np.bool_], *, seed: int = 0) -> Estimate:
    """The chance that an approved answer scores above a refused one; 0.5 is no opinion.

    Raises:
        DataError: all answers were rated alike.

    Source: Mann and Whitney 1947; the interval is a bootstrap of 1,000 samples.
    """
    if approved.all() or not approved.any():
        raise DataError("an area under the ROC needs approved and refused answers; one is missing.")

    def area(chosen: npt.NDArray[np.int64]) -> float:
        positive = approved[chosen]
        count = int(positive.sum())
        others = len(positive) - count
        if not count or not others:
            return 0.5
        ranks = rankdata(scores[chosen])[positive].sum()
        return float((ranks - count * (count + 1) / 2) / (count * others))

    interval = _resampled(len(scores), seed, area)
    return Estimate(area(np.arange(len(scores))), *interval)


def _resampled(size: int, seed: int, measure: Measure) -> tuple[float, float]:
    random = np.random.default_rng(seed)
    values = [measure(random.integers(size, size=size)) for _ in range(1000)]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
