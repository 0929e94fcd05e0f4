"""Masking of personal data by pattern, with counts by kind: corpora, and text that is logged.

Only kinds that a pattern can name with few false alarms: e-mail addresses and telephone numbers.
"""

import re
from collections import Counter

# Order matters: what an earlier pattern masks, a later one no longer sees.
_PATTERNS: tuple[tuple[str, re.Pattern[str], str], ...] = (
    ("email", re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}\b"), "<EMAIL>"),
    # International (+49 30 1234567) and North American ((212) 555-0123, 212-555-0123) forms; a
    # plain run of digits is far more often an identifier than a telephone number.
    (
        "phone",
        re.compile(
            r"(?<![\w+])(?:\+[1-9](?=(?:\D{0,2}\d){7,14}(?!\d))\d{0,2}(?:[ .-]?\(?\d{1,4}\)?){2,5}"
            r"|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}-\d{3}-\d{4})(?!\w)"
        ),
        "<PHONE>",
    ),
)


def mask(text: str) -> tuple[str, Counter[str]]:
    """Replace personal data by its kind.

    Returns:
        The masked text and how many of each kind were found:
        `mask("write to ada@example.org")` is `("write to <EMAIL>", Counter({"email": 1}))`.
    """
    found: Counter[str] = Counter()
    for kind, pattern, replacement in _PATTERNS:
        text, count = pattern.subn(replacement, text)
        if count:
            found[kind] += count
    return text, found
