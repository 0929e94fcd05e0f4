"""Personal data for `benchmarks.cleaning`: invented, valid by its check digits, and decoys."""

import ipaddress
import random
import string
from collections.abc import Callable

Maker = Callable[[random.Random], str]


def _email(chance: random.Random) -> str:
    name = "".join(chance.choices(string.ascii_lowercase, k=7))
    separator = chance.choice(["", ".", "_", "+"])
    place = chance.choice(["example.org", "mail.example.co.uk", "uni-example.de", "example.io"])
    return f"{name}{separator}{chance.randrange(99)}@{place}"


def _ip(chance: random.Random) -> str:
    while True:
        bits, size = chance.choice(((32, 32), (128, 128)))
        number = chance.getrandbits(size)
        if bits == 128:
            number = (0x2A00 << 112) | (number >> 16)
            return str(ipaddress.IPv6Address(number))
        address = ipaddress.IPv4Address(number)
        if address.is_global:
            return str(address)


def _phone(chance: random.Random) -> str:
    digits = "".join(chance.choices("23456789", k=10))
    return chance.choice(
        [
            f"+49 {digits[:2]} {digits[2:9]}",
            f"+1 {digits[:3]} {digits[3:6]} {digits[6:]}",
            f"({digits[:3]}) {digits[3:6]}-{digits[6:]}",
            f"{digits[:3]}-{digits[3:6]}-{digits[6:]}",
            f"+44 20 {digits[:4]} {digits[4:8]}",
            f"0049 30 {digits[:7]}",
            f"(030) {digits[:7]}",
            f"030/{digits[:7]}",
            f"{digits[:3]}.{digits[3:6]}.{digits[6:]}",
        ]
    )


def _luhn(payload: str) -> str:
    """Append the digit that makes the weighted sum a multiple of ten."""
    total = 0
    for place, digit in enumerate(reversed(payload)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return payload + str(-total % 10)


def _card(chance: random.Random) -> str:
    prefix = chance.choice(["4", "51", "55", "2221", "6011"])
    number = _luhn(prefix + "".join(chance.choices(string.digits, k=15 - len(prefix))))
    separator = chance.choice(["", " ", "-"])
    return separator.join(number[at : at + 4] for at in range(0, 16, 4))


def _iban(chance: random.Random) -> str:
    country, length = chance.choice([("DE", 18), ("FR", 23), ("GB", 18), ("NL", 14)])
    letters = {"GB": "WEST", "NL": "ABNA"}.get(country, "")
    account = letters + "".join(chance.choices(string.digits, k=length - len(letters)))
    numeric = "".join(str(int(sign, 36)) for sign in f"{account}{country}00")
    number = f"{country}{98 - int(numeric) % 97:02d}{account}"
    if chance.random() < 0.5:
        return number
    return " ".join(number[at : at + 4] for at in range(0, len(number), 4))


def _secret(chance: random.Random) -> str:
    alphabet = string.ascii_letters + string.digits
    return chance.choice(
        [
            "AKIA" + "".join(chance.choices(string.ascii_uppercase + string.digits, k=16)),
            "ghp_" + "".join(chance.choices(alphabet, k=36)),
            "sk-proj-" + "".join(chance.choices(alphabet, k=40)),
            "api_key = " + "".join(chance.choices(alphabet, k=30)) + "1a",
        ]
    )


PERSONAL: dict[str, Maker] = {
    "email": _email, "ip": _ip, "phone": _phone, "card": _card, "iban": _iban, "secret": _secret,
}  # fmt: skip


def decoy(chance: random.Random) -> str:
    """What looks like personal data and is none."""
    digits = "".join(chance.choices(string.digits, k=15))
    wrong = _luhn(digits)
    return chance.choice(
        [
            f"version {chance.randrange(9)}.{chance.randrange(20)}.{chance.randrange(9)}",
            f"192.168.{chance.randrange(256)}.{chance.randrange(256)}",
            f"{wrong[:-1]}{(int(wrong[-1]) + 1) % 10}",
            f"2026-{chance.randint(1, 12):02d}-{chance.randint(1, 28):02d}",
            f"ISBN 978-3-16-{digits[:6]}-{digits[6]}",
            f"0x{digits[:8]}",
            "user@localhost",
            f"list[{digits[:2]}:{digits[2:4]}]",
            f"{chance.randrange(24):02d}:{digits[4:6]}:{digits[6:8]}",
            f"{digits[:3]} of {digits[3:8]}",
        ]
    )
