"""Turn logged interactions into a table of columns whose distributions can be compared.

One row per interaction. What an interaction does not have (no text kept, no first token) is missing
in its row; whether enough rows have a value is for drift.py to judge.
"""

from collections.abc import Sequence

import pandas

from everloop.records import Interaction

NUMERICAL = (
    "prompt_tokens",
    "completion_tokens",
    "ttft_seconds",
    "e2e_seconds",
    "question_chars",
    "answer_chars",
    "answer_repetition_ratio",
    "answer_non_letter_ratio",
    "answer_unique_word_ratio",
)
CATEGORICAL = ("finish_reason", "route")
_NGRAM = 3  # words; shorter repeats are ordinary language


def feature_table(interactions: Sequence[Interaction]) -> pandas.DataFrame:
    """Compute all columns of NUMERICAL and CATEGORICAL, one row per interaction."""
    rows = [_row(interaction) for interaction in interactions]
    frame = pandas.DataFrame(rows, columns=[*NUMERICAL, *CATEGORICAL])
    return frame.astype(dict.fromkeys(NUMERICAL, "float64"))


def question(interaction: Interaction) -> str | None:
    """Return what the user asked last, or None where no text was kept."""
    asked = [turn.content for turn in interaction.messages if turn.role == "user"]
    return asked[-1] if asked else None


def repetition_ratio(text: str) -> float:
    """Return the share of three-word runs that the text has already had, 0 to 1.

    "a b c a b c" has the runs abc, bca, cab, abc, of which one is a repeat: 0.25.
    """
    words = text.lower().split()
    runs = [tuple(words[start : start + _NGRAM]) for start in range(len(words) - _NGRAM + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _row(interaction: Interaction) -> dict[str, float | str | None]:
    asked, answer = question(interaction), interaction.answer
    return {
        "prompt_tokens": interaction.prompt_tokens,
        "completion_tokens": interaction.completion_tokens,
        "ttft_seconds": interaction.ttft_seconds,
        "e2e_seconds": interaction.e2e_seconds,
        "question_chars": None if asked is None else len(asked),
        "answer_chars": None if answer is None else len(answer),
        "answer_repetition_ratio": repetition_ratio(answer) if answer else None,
        "answer_non_letter_ratio": _non_letter_ratio(answer) if answer else None,
        "answer_unique_word_ratio": _unique_word_ratio(answer) if answer else None,
        "finish_reason": interaction.finish_reason,
        "route": interaction.route,
    }


def _non_letter_ratio(text: str) -> float:
    return sum(not (char.isalpha() or char.isspace()) for char in text) / len(text)


def _unique_word_ratio(text: str) -> float | None:
    words = text.lower().split()
    return len(set(words)) / len(words) if words else None
