"""What a demo is about: the model that it begins with, the user's questions, and who is content."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from everloop.demo_config import DemoConfig, as_demo, choose_questions
from everloop.machine import usable_cores
from everloop.orders import orders
from everloop.settings import RunFile
from everloop.simulated_user import Manner, Question
from feedback.general_ability import general_prompts
from training import python_docs
from training.answer_score import answer_score

_ASK = "Write this order as JSON: "

# What a round on real weights spends. Chosen on this task, see docs/decisions.md.
_OPEN_WEIGHTS: dict[str, dict[str, Any]] = {
    "export": {"precision": "int8", "max_model_len": 512},
    "engine": {"max_num_seqs": 16},
    "sft": {"lora_rank": 8, "device_batch_size": 8, "grad_accum_steps": 1, "eval_rows": 32},
    "loop": {
        "epochs": 1.0, "eval_every": 7, "validation_windows": 32, "max_answer_tokens": 48,
    },
    "feedback": {"replay_ratio": 0.5, "max_rows_per_user": 2000},
    "trigger": {"cooldown_minutes": 0.0},
    "drift": {"current_rows": 300},
    # Answers of a real model take a core: questions beside the round come more slowly.
    "demo": {"concurrency": 16, "pause_seconds": 2.0},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scene:
    """A demo's subject.

    Attributes:
        run: the settings of all commands.
        known: questions that the model is ready for.
        new: questions that it is not; answers are rated and corrected.
        score: how content the user is with an answer beside the wanted one, 0 to 1.
        manner: how the user judges.
        weights: file of the model that is imported; None for one that is trained from scratch.
        note: what a reader should know about the result.
    """

    run: RunFile
    known: list[Question]
    new: list[Question]
    score: Callable[[str, str], float]
    manner: Manner
    weights: Path | None
    note: str


def documentation_scene(run: RunFile, minutes: float) -> Scene:
    """A small model is trained on Python's documentation, and asked about networks.

    Args:
        minutes: of training, in all, at most.
    """
    config = run.table("demo", DemoConfig)
    pairs = python_docs.pairs()
    known, new = choose_questions(pairs, config)
    return Scene(
        run=as_demo(run, minutes, {pair.topic for pair in pairs}),
        known=known,
        new=new,
        score=answer_score,
        manner=Manner(config.approve_at, config.correction_rate),
        weights=None,
        note="A model this small shows the life cycle and is no assistant: it has the register of "
        "the documentation it read, not its facts.",
    )


def orders_scene(run: RunFile, weights: Path, minutes: float) -> Scene:
    """A real model answers general questions, and learns to read orders into JSON.

    Args:
        weights: GGUF file of a model that can chat.
        minutes: of training, at most.
    """
    names = {**_OPEN_WEIGHTS, **run.values}
    values = {name: {**_OPEN_WEIGHTS.get(name, {}), **run.values.get(name, {})} for name in names}
    # The questions that go on beside the round are few: it may have all cores.
    values["loop"] = {"minutes": minutes, "num_threads": usable_cores()} | values["loop"]
    run = RunFile(run.name, values)
    config = run.table("demo", DemoConfig)
    prompts = enumerate(islice(cycle(general_prompts()), config.general_questions))
    return Scene(
        run=run,
        known=[
            Question(f"general-{number}", prompt, "", max_tokens=24) for number, prompt in prompts
        ],
        new=[
            Question(f"order-{number}", _ASK + spoken, wanted)
            for number, (spoken, wanted) in enumerate(orders(config.orders, config.seed))
        ],
        score=_is_same_order,
        manner=Manner(0.5, config.correction_rate, max_tokens=48),
        weights=weights,
        note="The orders are made up by a program; everything else is real: weights, service, "
        "feedback, tuning and gate.",
    )


def _is_same_order(answer: str, wanted: str) -> float:
    try:
        return float(json.loads(answer) == json.loads(wanted))
    except ValueError:
        return 0.0
