"""What an imported model could do before the loop tuned it: its own answers to general prompts.

Nobody else's data is needed for it. The prompts come with the project; the model answers them once.
Half of the answers are replayed in every round, so that tuning keeps them. The other half are never
trained on: how far the candidate has moved from them is what the gate calls forgetting.
"""

import json
import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from everloop.records import DatasetRow, Message, Source, content_hash
from everloop.text_files import read_text_lines

MAX_ANSWER_TOKENS = 64

_SENTENCES = re.compile(r".*[.!?](?=\s|$)", re.DOTALL)


def general_prompts() -> list[str]:
    """The prompts, many subjects, in a fixed order."""
    text = files("feedback").joinpath("general_prompts.txt").read_text(encoding="utf-8")
    return text.strip().split("\n")


def general_answers(
    path: Path, answer: Callable[[Sequence[str]], list[str]]
) -> list[tuple[Message, ...]]:
    """The conversations that show what the model could do; it is asked the first time only.

    Args:
        path: file of the answers, one JSON object a line; written if it is not there.
        answer: asks the imported model; an empty answer leaves the prompt out.

    Returns:
        One for each prompt that the model had an answer to.
    """
    if not path.exists():
        prompts = general_prompts()
        lines = [
            json.dumps({"prompt": prompt, "answer": said.strip()})
            for prompt, said in zip(prompts, answer(prompts), strict=True)
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")
        part.replace(path)
    found = [json.loads(line) for line in read_text_lines(path) if line]
    return [
        (
            Message(role="user", content=item["prompt"]),
            Message(role="assistant", content=item["answer"]),
        )
        for item in found
        if item["answer"]
    ]


def whole_sentences(text: str) -> str:
    """What is left of an answer that was cut off: learnt as it is, it would teach to break off."""
    found = _SENTENCES.match(text)
    return found.group() if found else ""


def replayed_half(answers: Sequence[tuple[Message, ...]], model: str) -> list[DatasetRow]:
    """Rows to train on beside the feedback.

    Args:
        answers: of `general_answers`.
        model: tag of the version that gave them; the rows' source.
    """
    source = Source(kind="model", id=model)
    return [
        DatasetRow(
            id=content_hash(None, messages), split="train", sources=(source,), messages=messages
        )
        for messages in answers[::2]
    ]


def measured_half(answers: Sequence[tuple[Message, ...]]) -> list[tuple[Message, ...]]:
    """Conversations that no round trains on."""
    return list(answers[1::2])
