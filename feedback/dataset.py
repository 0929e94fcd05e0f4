"""A training dataset from what people approved and corrected. Pure: records in, rows out.

A correction teaches the corrected answer, a thumb up the given one; a thumb down alone teaches
nothing yet. Part of the conversations is held out to judge the next model, and rows of the original
data are replayed so that it does not forget. Whatever is left out is counted with its reason.
"""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from everloop.errors import RefusedError
from everloop.pii import mask
from everloop.questions import first_question, normal
from everloop.records import DatasetRow, Feedback, Interaction, Message, Source, content_hash
from everloop.settings import Config


class FeedbackConfig(Config):
    """Table [feedback]."""

    holdout_share: float = Field(
        0.3, ge=0, lt=1, description="share of conversations kept out of training to judge by"
    )
    replay_ratio: float = Field(
        1.0, ge=0, description="rows of the original training data per row of feedback"
    )
    min_rows: int = Field(20, ge=1, description="fewer rows of feedback to train on are refused")
    min_holdout_rows: int = Field(0, ge=0, description="fewer rows to judge by are refused")
    max_rows_per_user: int = Field(
        500, ge=1, description="newest examples of one user (metadata.user) that are used"
    )
    min_answer_chars: int = Field(2, ge=1, description="shorter answers are left out")


@dataclass(frozen=True, slots=True)
class FeedbackDataset:
    """What one round of the loop trains on and is judged by.

    Attributes:
        train: rows of feedback to learn from.
        holdout: rows of feedback to judge by; no question of theirs is in train or replay.
        replay: rows of the original training data.
        dropped: reason -> how many interactions, pieces of feedback or rows were left out.
    """

    train: tuple[DatasetRow, ...]
    holdout: tuple[DatasetRow, ...]
    replay: tuple[DatasetRow, ...]
    dropped: Counter[str]

    @property
    def rows(self) -> tuple[DatasetRow, ...]:
        """All rows; the split of each says what it is for."""
        return self.train + self.replay + self.holdout


@dataclass(frozen=True, slots=True)
class _Example:
    """One answer that somebody approved or corrected."""

    interaction: Interaction
    feedback: Feedback
    answer: str

    @property
    def rank(self) -> tuple[bool, float, str]:
        """A correction beats an approval, then the newer beats the older."""
        is_correction = self.feedback.metric_name == "demonstration"
        return is_correction, self.feedback.created_at, self.feedback.id

    @property
    def context(self) -> tuple[str, ...]:
        """The question and all turns before it, as they are compared."""
        return tuple(f"{turn.role}:{normal(turn.content)}" for turn in self.interaction.messages)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation with the answer to learn, personal data masked."""
        turns = (*self.interaction.messages, Message(role="assistant", content=self.answer))
        return tuple(turn.map_text(lambda text: mask(text)[0]) for turn in turns)

    @property
    def sources(self) -> tuple[Source, Source]:
        return (
            Source(kind="interaction", id=self.interaction.id),
            Source(kind="feedback", id=self.feedback.id),
        )


def build_feedback_dataset(
    interactions: Sequence[Interaction],
    feedback: Sequence[Feedback],
    replay: Sequence[DatasetRow],
    config: FeedbackConfig,
    seed: int,
) -> FeedbackDataset:
    """Build the dataset of one round.

    Args:
        interactions: those that something was said about.
        feedback: what was said, in any order; the last word of each metric counts.
        replay: rows of the dataset that the champion was trained on.
        seed: chooses the replayed rows.

    Raises:
        RefusedError: too few rows are left; the message has the counts.
    """
    dropped: Counter[str] = Counter()
    examples = _cap_users(_examples(interactions, feedback, config, dropped), config, dropped)
    sides: dict[bool, list[_Example]] = {True: [], False: []}
    for example in examples:
        sides[is_held_out(example.interaction, config.holdout_share)].append(example)
    holdout = tuple(_rows(sides[True], "holdout", dropped))
    questions = {_question(row) for row in holdout}
    learnt = _rows(sides[False], "train", dropped)
    train = tuple(_without(learnt, questions, "question is held out", dropped))
    taken = {row.id for row in train}
    old = [row for row in replay if row.split == "train" and row.id not in taken]
    unseen = _without(old, questions, "replayed question is held out", dropped)
    # Replaying an answer that somebody corrected would teach both.
    answered = {_question(row) for row in train}
    other = _without(unseen, answered, "replayed question is answered anew", dropped)
    replayed = _sample(other, round(config.replay_ratio * len(train)), seed)
    dataset = FeedbackDataset(train, holdout, replayed, +dropped)
    _refuse_few(dataset, config)
    return dataset


def is_held_out(interaction: Interaction, share: float) -> bool:
    """Say on which side a conversation stands: always the same, in every round.

    Without a conversation id, the first question decides, so that asking it again does not move it
    to the other side.
    """
    key = interaction.conversation_id
    if key is None:
        key = first_question(interaction.messages) if interaction.messages else interaction.id
    return _place(key) < share


def choose_validation(rows: Iterable[DatasetRow], share: float) -> list[DatasetRow]:
    """Move a share of the learnt rows to validation: by their question, so always the same ones."""

    def split(row: DatasetRow) -> DatasetRow:
        # Not the hold-out's number, which of all rows that are left is above its share.
        is_chosen = _place(f"validation:{_question(row)}") < share
        return row.model_copy(update={"split": "validation"}) if is_chosen else row

    return [split(row) for row in rows]


def _examples(
    interactions: Sequence[Interaction],
    feedback: Sequence[Feedback],
    config: FeedbackConfig,
    dropped: Counter[str],
) -> list[_Example]:
    unique = {interaction.id: interaction for interaction in interactions}
    said: defaultdict[str, dict[str, Feedback]] = defaultdict(dict)
    for item in sorted(feedback, key=lambda item: (item.created_at, item.id)):
        if item.inference_id is None:
            dropped["about a conversation, not an answer"] += 1
        elif item.inference_id not in unique:
            dropped["about an unknown interaction"] += 1
        else:
            said[item.inference_id][item.metric_name] = item
    examples = []
    for interaction in unique.values():
        found = _judge(interaction, said[interaction.id], config.min_answer_chars)
        if isinstance(found, str):
            dropped[found] += 1
        else:
            examples.append(found)
    return examples


def _judge(
    interaction: Interaction, said: Mapping[str, Feedback], min_answer_chars: int
) -> _Example | str:
    """The example in an interaction, or the reason why there is none."""
    chosen = said.get("demonstration") or said.get("thumbs")
    if chosen is None or chosen.rating == "other":
        return "no rating to learn from"
    if chosen.rating == "negative":
        return "thumb down without a correction"
    is_correction = chosen.metric_name == "demonstration"
    if not is_correction and interaction.finish_reason != "stop":
        return "approved answer was cut off"
    if interaction.route != "chat":
        return "not a chat"
    answer = chosen.value if is_correction else interaction.answer
    if not isinstance(answer, str) or not answer or not interaction.messages:
        return "no text was kept"
    if interaction.messages[-1].role != "user":
        return "no question at the end"
    if len(answer.strip()) < min_answer_chars:
        return "answer is too short"
    return _Example(interaction, chosen, answer.strip())


def _cap_users(
    examples: Sequence[_Example], config: FeedbackConfig, dropped: Counter[str]
) -> list[_Example]:
    kept, used = [], Counter[str]()
    for example in sorted(examples, key=lambda example: example.rank, reverse=True):
        user = example.interaction.metadata.get("user")
        if user is not None and used[user] >= config.max_rows_per_user:
            dropped["user is over the cap"] += 1
            continue
        if user is not None:
            used[user] += 1
        kept.append(example)
    return kept


def _rows(
    examples: Iterable[_Example], split: Literal["train", "holdout"], dropped: Counter[str]
) -> Iterator[DatasetRow]:
    """One row for each question in its context: the best answer, with the sources of its equals."""
    groups: defaultdict[tuple[str, ...], list[_Example]] = defaultdict(list)
    for example in examples:
        groups[example.context].append(example)
    for group in groups.values():
        best = max(group, key=lambda example: example.rank)
        equal = [example for example in group if normal(example.answer) == normal(best.answer)]
        dropped["same answer again"] += len(equal) - 1
        dropped["another answer was preferred"] += len(group) - len(equal)
        messages = best.messages
        sources = dict.fromkeys(source for example in equal for source in example.sources)
        yield DatasetRow(
            id=content_hash(None, messages, tools=best.interaction.tools),
            split=split,
            sources=tuple(sorted(sources, key=lambda source: (source.id, source.kind))),
            messages=messages,
            tools=best.interaction.tools,
        )


def _without(
    rows: Iterable[DatasetRow], held_out: set[str], reason: str, dropped: Counter[str]
) -> Iterator[DatasetRow]:
    """The rows in which nobody asks a question that is held out."""
    for row in rows:
        turns = row.messages or ()
        if any(turn.role == "user" and normal(turn.content) in held_out for turn in turns):
            dropped[reason] += 1
        else:
            yield row


def _sample(rows: Iterable[DatasetRow], count: int, seed: int) -> tuple[DatasetRow, ...]:
    # Sorted, so that the choice depends on the rows and the seed and not on the order of reading.
    ordered = sorted(rows, key=lambda row: row.id)
    return tuple(random.Random(seed).sample(ordered, min(count, len(ordered))))


def _refuse_few(dataset: FeedbackDataset, config: FeedbackConfig) -> None:
    train, holdout = len(dataset.train), len(dataset.holdout)
    if train >= config.min_rows and holdout >= config.min_holdout_rows:
        return
    left_out = ", ".join(f"{count} {reason}" for reason, count in dataset.dropped.most_common())
    raise RefusedError(
        f"too little feedback to learn from: {train} rows to train on (feedback.min_rows = "
        f"{config.min_rows}), {holdout} to judge by (feedback.min_holdout_rows or gate.min_rows = "
        f"{config.min_holdout_rows}); left out: {left_out or 'nothing'}. Collect more feedback."
    )


def _question(row: DatasetRow) -> str:
    """What a row of feedback answers, as it is compared."""
    return normal(row.messages[-2].content) if row.messages else ""


def _place(key: str) -> float:
    """A number from 0 to 1 that a text always has."""
    digest = hashlib.sha256(key.encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
