"""How close an answer is to its reference; without torch, so that a user of the service can ask."""

from functools import cache

from sacrebleu.metrics.chrf import CHRF


def answer_score(answer: str, reference: str) -> float:
    """Similarity of an answer to its reference, 0 to 1: chrF2, over characters.

    Source: Popović 2015, doi 10.18653/v1/W15-3049, as sacrebleu computes it.
    """
    return float(_chrf().sentence_score(answer, [reference]).score) / 100


@cache
def _chrf() -> CHRF:
    return CHRF()
