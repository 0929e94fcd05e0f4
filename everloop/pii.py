"""Masking of personal data by pattern, with counts by kind: corpora, and text that is logged.

Only kinds that a pattern can name with few false alarms; where a check digit or a registry exists
(cards, IBANs, public addresses), it decides. Names and postal addresses need a model and are not
looked for.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Collection
from typing import NamedTuple

Check = Callable[[str], bool]


class _Rule(NamedTuple):
    kind: str
    pattern: re.Pattern[str]
    is_real: Check


def mask(text: str, kinds: Collection[str] | None = None) -> tuple[str, Counter[str]]:
    """Replace personal data by its kind.

    Args:
        kinds: those to look for, of KINDS; all if absent.

    Returns:
        The masked text and how many of each kind were found:
        `mask("write to ada@example.org")` is `("write to <EMAIL>", Counter({"email": 1}))`.
    """
    found: Counter[str] = Counter()
    for kind, pattern, is_real in _RULES:
        if kinds is not None and kind not in kinds:
            continue

        def replace(match: re.Match[str], kind: str = kind, is_real: Check = is_real) -> str:
            if not is_real(match[0]):
                return match[0]
            found[kind] += 1
            return f"<{kind.upper()}>"

        text = pattern.sub(replace, text)
    return text, found


def _always(found: str) -> bool:  # noqa: ARG001 - some patterns need no check
    return True


def _is_luhn(found: str) -> bool:
    """Check digit of payment cards. Source: ISO/IEC 7812-1, annex B."""
    digits = [int(digit) for digit in found if digit.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_iban(found: str) -> bool:
    """Length of the country and check digits. Source: ISO 13616, ISO 7064 MOD 97-10."""
    compact = found.replace(" ", "")
    if len(compact) != _IBAN_LENGTHS.get(compact[:2], 0):
        return False
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def _is_public_address(found: str) -> bool:
    """Private and documentation ranges name nobody."""
    try:
        address = ipaddress.ip_address(found)
    except ValueError:
        return False
    return address.is_global and (address.version == 4 or address in _GLOBAL_UNICAST)


def _is_mixed(found: str) -> bool:
    """A key has letters and digits; a word or a number is none."""
    value = re.split(r"[:=]", found)[-1]
    return bool(re.search(r"\d", value) and re.search(r"[A-Za-z]", value))


_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # source: RFC 4291, section 2.4

# Source: the SWIFT IBAN registry.
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FO GL NL", 19: "MK SI", 20: "AT BA EE KZ LT LU XK",
        21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA", 30: "JO KW MU", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip

# Issuers' own formats first; then what stands behind a name such as api_key.
_SECRETS = (
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]{1,20000}?-----END [A-Z ]*PRIVATE KEY-----"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_\w{22,}\b|\bglpat-[\w-]{20,}"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bAIza[\w-]{35}\b|\bhf_[A-Za-z0-9]{30,}\b"
    r"|\bsk-(?:ant-|proj-)?[\w-]{20,}|\b[rs]k_live_[A-Za-z0-9]{16,}|\bnpm_[A-Za-z0-9]{36}\b"
    r"|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"
)
_NAMED_SECRET = (
    r"(?i)(?<![a-z])(?:api[_-]?key|secret(?:[_-]?key)?|access[_-]?token|auth[_-]?token|passwd|"
    r"password)[\"']?\s{0,3}[:=]\s{0,3}[\"']?[A-Za-z0-9/+_\-]{16,}"
)

# Order matters: what an earlier rule masks, a later one no longer sees.
_RULES = (
    _Rule("secret", re.compile(_SECRETS), _always),
    _Rule("secret", re.compile(_NAMED_SECRET), _is_mixed),
    _Rule("email", re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}\b"), _always),
    _Rule(
        "iban",
        re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"),
        _is_iban,
    ),
    # First digits of the large issuers, in groups of four (Amex 4-6-5) or in one run.
    _Rule(
        "card",
        re.compile(
            r"(?<![\d.-])(?:(?:4\d{3}|5[1-5]\d\d|2[2-7]\d\d|6(?:011|5\d\d|2\d\d)|35\d\d)"
            r"(?:[ -]?\d{4}){3}|3[47]\d\d[ -]?\d{6}[ -]?\d{5})(?![\d-])"
        ),
        _is_luhn,
    ),
    _Rule(
        "ip",
        re.compile(r"(?<![\w.])(?<![Vv]ersion )(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)"),
        _is_public_address,
    ),
    _Rule(
        "ip",
        re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){2,7}(?::|[0-9A-Fa-f]{1,4})(?![\w:])"
                   r"|(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){1,6}(?::[0-9A-Fa-f]{1,4}){1,6}(?![\w:])"),
        _is_public_address,
    ),
    # International (+49 30 1234567, 0049 30 1234567), North American ((212) 555-0123, 212-555-0123
    # or with dots), national with a trunk zero ((030) 1234567, 030/1234567); a plain run of digits
    # is far more often an identifier than a telephone number.
    _Rule(
        "phone",
        re.compile(
            r"(?<![\w+.-])(?<!\d )(?:"
            r"\+[1-9](?=(?:\D{0,2}\d){7,14}(?!\d))\d{0,2}(?:[ .-]?\(?\d{1,4}\)?){2,5}"
            r"|00[1-9]\d{0,2}(?: \d{2,8}){2,4}"
            r"|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}-\d{3}-\d{4}|\d{3}\.\d{3}\.\d{4}"
            r"|\(0\d{1,4}\) ?\d{5,8}|0\d{1,4}/\d{5,8})(?!\w)"
        ),
        _always,
    ),
)  # fmt: skip

KINDS = tuple(dict.fromkeys(rule.kind for rule in _RULES))
