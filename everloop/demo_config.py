"""What the demo is told: the user's topics and manners, how much it learns, and for how long."""

import json
import random
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from everloop.settings import Config, RunFile
from everloop.simulated_user import Question
from training.corpus import Conversation

# How much is learnt where the run does not say it: as in configs/python-docs.toml.
PRETRAIN_STEPS, SFT_STEPS = 240, 60
# A round of the demo makes fewer passes than one of the worker: nobody waits for that one.
LOOP_EPOCHS = 2.0
# Shares of the most minutes of training.
PRETRAIN_SHARE, SFT_SHARE, LOOP_SHARE = 0.5, 0.3, 0.2


class DemoConfig(Config):
    """Table [demo]: what the simulated user asks about, and how."""

    topics: tuple[str, ...] = Field(
        (
            "asyncio", "email", "http", "urllib", "mailbox", "imaplib", "wsgiref", "xmlrpc",
            "smtplib", "ipaddress", "socketserver", "ftplib", "ssl", "socket",
        ),
        strict=False,
        description="what the model has not been tuned on and the user asks about: the network",
    )  # fmt: skip
    known_questions: int = Field(
        320, ge=300, description="asked about other topics before: the reference of the drift"
    )
    questions: int = Field(480, ge=300, description="asked about the topics, rated and corrected")
    general_questions: int = Field(
        300, ge=300, description="asked of a real model before: the reference of the drift"
    )
    orders: int = Field(300, ge=300, description="given to a real model, rated and corrected")
    concurrency: int = Field(8, ge=1, description="questions that are open at the same time")
    pause_seconds: float = Field(
        0.25, ge=0, description="between two questions while the loop runs its round"
    )
    approve_at: float = Field(0.6, ge=0, le=1, description="score from which an answer is good")
    correction_rate: float = Field(0.9, ge=0, le=1, description="share of bad answers corrected")
    seed: int = Field(7, ge=0, description="of the user")


def as_demo(run: RunFile, minutes: float, known_topics: set[str | None]) -> RunFile:
    """Lay what makes the demo a demo over the settings of the run.

    Args:
        minutes: of training, in all, at most; what is learnt is budgeted in steps.
        known_topics: that this Python's documentation has.
    """
    config = run.table("demo", DemoConfig)
    topics = [topic for topic in config.topics if topic in known_topics]
    demo: dict[str, dict[str, Any]] = {
        "data": {"exclude_topics": topics},
        "pretrain": _budget(run, "pretrain", PRETRAIN_STEPS, minutes * PRETRAIN_SHARE),
        "sft": _budget(run, "sft", SFT_STEPS, minutes * SFT_SHARE),
        "loop": {"epochs": LOOP_EPOCHS, "minutes": minutes * LOOP_SHARE},
        "drift": {"current_rows": config.questions},
        "trigger": {"cooldown_minutes": 0.0},
        "feedback": {"max_rows_per_user": 2000},
    }
    names = {**demo, **run.values}
    return RunFile(
        run.name, {name: {**run.values.get(name, {}), **demo.get(name, {})} for name in names}
    )


def _budget(run: RunFile, table: str, max_steps: int, minutes: float) -> dict[str, float]:
    """The guard by the clock, and steps for a table that has no other budget."""
    given = run.values.get(table, {})
    if any(given.get(key) is not None for key in ("max_steps", "max_train_tokens", "epochs")):
        return {"minutes": minutes}
    return {"max_steps": max_steps, "minutes": minutes}


def choose_questions(
    pairs: Sequence[Conversation], config: DemoConfig
) -> tuple[list[Question], list[Question]]:
    """The user's questions: about other topics, and about the new ones; both shuffled by seed."""
    known: list[Question] = []
    new: list[Question] = []
    for pair in pairs:
        question = Question(pair.id, pair.messages[0].content, pair.messages[-1].content)
        (new if pair.topic in config.topics else known).append(question)
    chance = random.Random(config.seed)
    chance.shuffle(known)
    chance.shuffle(new)
    return known[: config.known_questions], new[: config.questions]


def as_overrides(run: RunFile) -> list[str]:
    """The whole run as `table.key=value` for another process."""
    return [
        f"{table}.{key}={_toml(value)}"
        for table, values in run.values.items()
        for key, value in values.items()
    ]


def _toml(value: Any) -> str:
    """A value in TOML's notation; JSON's is TOML's too, but for tables."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(key)} = {_toml(one)}' for key, one in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)
