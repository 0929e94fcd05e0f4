"""Orders at a café's counter, as people speak, with the JSON that the till wants: the demo's task.

Made by a seeded generator, so that there are as many as wanted, each with one right answer. What a
model has to learn is the till's form: its keys, their order, and what they hold.
"""

import json
import random
from typing import Any

_COUNTS = {
    1: ("a", "one"), 2: ("two", "a couple of"), 3: ("three",), 4: ("four",), 5: ("five",),
    6: ("six",),
}  # fmt: skip
_GOODS = (
    "flat white", "espresso", "cappuccino", "latte", "americano", "mocha", "green tea",
    "hot chocolate", "lemonade", "apple juice", "iced coffee", "ginger tea", "mint tea", "cortado",
    "orange juice", "sparkling water", "croissant", "bagel", "blueberry muffin", "cheese scone",
    "brownie", "cinnamon roll", "tuna sandwich", "lentil soup", "lemon tart", "carrot cake",
    "granola bar", "oat cookie", "tomato quiche",
)  # fmt: skip
_NAMES = (
    "Amira", "Ben", "Chloe", "Dmitri", "Elena", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Keiko",
    "Liam", "Maya", "Noor", "Oscar", "Priya", "Quinn", "Rosa", "Samir", "Tara", "Umar", "Vera",
    "Wei", "Ximena", "Yusuf", "Zoe",
)  # fmt: skip
_WORDINGS = (
    "Hi, {name} here. {order}, {place} please.",
    "Could I get {order}? It's {place}. The name is {name}.",
    "{order} {place}, for {name}.",
    "Good morning! {order}. We'll have it {place}. Put it under {name}, thanks.",
    "I'd like {order} {place}. My name is {name}.",
    "Can {name} have {order}? {place}, please.",
    "This is {name}. I need {order}, {place}.",
    "{place}: {order}. Name's {name}.",
)
_HERE = ("to drink in", "for here", "at the table", "to stay")
_TO_GO = ("to go", "to take away", "as takeaway", "for the road")


def orders(count: int, seed: int) -> list[tuple[str, str]]:
    """Make different orders, each with the answer that the till wants.

    Args:
        count: of the orders.
        seed: chooses them.

    Returns:
        What is said at the counter, and compact JSON with `name`, `to_go` and `items`.
    """
    chance = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        spoken, wanted = _order(chance)
        found.setdefault(spoken, json.dumps(wanted))
    return list(found.items())


def _order(chance: random.Random) -> tuple[str, dict[str, Any]]:
    goods = chance.sample(_GOODS, chance.choice((1, 2, 2, 3)))
    items = {good: chance.choice((1, 1, 2, 2, 3, 4, 5, 6)) for good in goods}
    parts = [_spoken(good, count, chance) for good, count in items.items()]
    order = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    name, to_go = chance.choice(_NAMES), chance.random() < 0.5
    text = chance.choice(_WORDINGS).format(
        name=name, order=order, place=chance.choice(_TO_GO if to_go else _HERE)
    )
    return ". ".join(part[0].upper() + part[1:] for part in text.split(". ")), {
        "name": name,
        "to_go": to_go,
        "items": items,
    }


def _spoken(good: str, count: int, chance: random.Random) -> str:
    word = chance.choice(_COUNTS[count])
    if word == "a" and good[0] in "aeiou":
        word = "an"
    return f"{word} {good if count == 1 else _plural(good)}"


def _plural(good: str) -> str:
    if good.endswith("y"):
        return good[:-1] + "ies"
    return good + ("es" if good.endswith(("sh", "ch", "ss")) else "s")
