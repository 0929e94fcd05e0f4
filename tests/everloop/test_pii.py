"""Masking finds personal data and leaves everything else."""

import pytest

from everloop.pii import KINDS, mask


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
        ("0049 30 1234567", "<PHONE>", "phone"),
        ("(030) 1234567", "<PHONE>", "phone"),
        ("030/1234567", "<PHONE>", "phone"),
        ("212.555.0123", "<PHONE>", "phone"),
        ("ping 8.8.8.8 twice", "ping <IP> twice", "ip"),
        ("from 203.0.114.7:8080", "from <IP>:8080", "ip"),
        ("host 2001:4860:4860::8888.", "host <IP>.", "ip"),
        ("2a00:1450:4001:0810:0000:0000:0000:200e", "<IP>", "ip"),
        ("pay with 4111 1111 1111 1111", "pay with <CARD>", "card"),
        ("5555555555554444", "<CARD>", "card"),
        ("3782-822463-10005", "<CARD>", "card"),
        ("IBAN DE89 3704 0044 0532 0130 00.", "IBAN <IBAN>.", "iban"),
        ("GB29NWBK60161331926819", "<IBAN>", "iban"),
        ("key AKIAIOSFODNN7EXAMPLE", "key <SECRET>", "secret"),
        ("token ghp_" + "a1" * 18, "token <SECRET>", "secret"),
        ('api_key = "a1b2c3d4e5f6a7b8c9"', '<SECRET>"', "secret"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
            "<SECRET>",
            "secret",
        ),
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
        "01/02/2026 and 0.123.4567",
        "0012 34",
        "+000000120",
        "192.168.0.1 and 127.0.0.1 and 192.0.2.7",
        "version 3.11.7.1",
        "1.2.3",
        "999.1.1.1",
        "std::vector a::b ab::cd",
        "12:30:45",
        "4111 1111 1111 1112",
        "1234 5678 9012 3456",
        "DE89 3704 0044 0532 0130 01",
        "GB29NWBK6016133192681",
        "password = get_password_from_user",
        "secret: 12345678901234567890",
        "-----BEGIN CERTIFICATE-----",
    ],
)
def test_mask_leaves_other_text(text: str) -> None:
    assert mask(text) == (text, {})


def test_mask_counts_each_kind() -> None:
    masked, found = mask("a@b.org, c@d.org, 212-555-0123")
    assert masked == "<EMAIL>, <EMAIL>, <PHONE>"
    assert found == {"email": 2, "phone": 1}


def test_mask_looks_for_the_kinds_that_are_asked_for() -> None:
    assert mask("a@b.org 8.8.8.8", ["ip"]) == ("a@b.org <IP>", {"ip": 1})
    assert KINDS == ("secret", "email", "iban", "card", "ip", "phone")
