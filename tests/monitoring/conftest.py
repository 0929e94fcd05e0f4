"""Seeded, synthetic interactions: ordinary traffic and traffic that changed."""

import random
from collections.abc import Callable

import pytest

from everloop.records import Interaction, Message

ORDINARY = (
    "how do I open a file",
    "what does the list method append return",
    "how are dictionaries sorted by value",
    "explain the with statement",
    "how do I read a line of text from a file",
    "what is the difference between a tuple and a list",
)
OTHER_TOPIC = (
    "which wine goes with grilled fish",
    "give me a recipe for onion soup",
    "how long must potatoes boil before mashing",
    "what can replace butter in a cake",
)
WORDS = ("the", "value", "of", "this", "object", "is", "returned", "when", "you", "call", "its")

MakeInteractions = Callable[..., list[Interaction]]


@pytest.fixture
def interactions() -> MakeInteractions:
    return make


def make(
    count: int, seed: int, shifted: bool = False, start: int = 0, text: bool = True
) -> list[Interaction]:
    """Draw interactions, oldest first; shifted: another topic, slower and duller answers."""
    draw = random.Random(seed)
    return [_one(draw, start + index, shifted, text) for index in range(count)]


def _one(draw: random.Random, index: int, shifted: bool, text: bool) -> Interaction:
    topics = OTHER_TOPIC if shifted else ORDINARY
    ending = " please" if draw.random() < 0.5 else ""
    question = f"{draw.choice(topics)}{ending}" + (" and explain every step" * 3 if shifted else "")
    words = draw.choices(WORDS[:2] if shifted else WORDS, k=draw.randint(5, 30))
    ttft = draw.lognormvariate(-3 + 2 * shifted, 0.5)
    return Interaction(
        id=f"chatcmpl-{index}",
        created_at=1_700_000_000.0 + index,
        route="chat",
        conversation_id=None,
        model_version="everloop:v2" if shifted else "everloop:v1",
        messages=(Message(role="user", content=question),) if text else (),
        answer=" ".join(words) + "." if text else None,
        finish_reason=draw.choices(("stop", "length"), (1, 9) if shifted else (9, 1))[0],
        prompt_tokens=len(question.split()) + 4,
        completion_tokens=len(words),
        temperature=1.0,
        top_p=1.0,
        max_tokens=64,
        seed=None,
        queue_seconds=0.001,
        ttft_seconds=ttft,
        e2e_seconds=ttft + 0.004 * len(words),
    )
