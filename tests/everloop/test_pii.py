"""Masking finds personal data and leaves everything else."""

import pytest

from everloop.pii import mask


@pytest.mark.parametrize(
    ("text", "masked", "kind"),
    [
        ("write to ada@example.org now", "write to <EMAIL> now", "email"),
        ("first.last+tag@mail.example.co.uk", "<EMAIL>", "email"),
        ("call +49 30 1234567 today", "call <PHONE> today", "phone"),
        ("call (212) 555-0123.", "call <PHONE>.", "phone"),
        ("fax 212-555-0123", "fax <PHONE>", "phone"),
        ("+1-212-555-0123", "<PHONE>", "phone"),
        ("+44 (0)20 7946 0018", "<PHONE>", "phone"),
    ],
)
def test_mask_replaces_personal_data(text: str, masked: str, kind: str) -> None:
    assert mask(text) == (masked, {kind: 1})


@pytest.mark.parametrize(
    "text",
    [
        "x = a @ b",
        "@functools.wraps(f)",
        "version 3.11.7",
        "2026-11-24",
        "1234567890",
        "0x7f3a 100-200",
        "range(1, 10, 2) + 5",
        "ISBN 978-3-16-148410-0",
        "+0000",
        "+3.140000",
        "+000000120",
    ],
)
def test_mask_leaves_other_text(text: str) -> None:
    assert mask(text) == (text, {})


def test_mask_counts_each_kind() -> None:
    masked, found = mask("a@b.org, c@d.org, 212-555-0123")
    assert masked == "<EMAIL>, <EMAIL>, <PHONE>"
    assert found == {"email": 2, "phone": 1}
