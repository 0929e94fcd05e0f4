"""Rows that people rated, for the tests of preference tuning."""

from everloop.records import DatasetRow, Message, content_hash

GOOD = "A string. It raises ValueError otherwise."
BAD = "The lazy dog sorts the items in place."


def _question(number: int) -> tuple[Message, ...]:
    return (Message(role="user", content=f"What does item {number} return?"),)


def rated(split: str, count: int) -> list[DatasetRow]:
    """Answers of which every third is refused."""
    rows = []
    for number in range(count):
        label = number % 3 != 0
        answer = Message(role="assistant", content=GOOD if label else BAD)
        messages = (*_question(number), answer)
        row_id = content_hash(None, messages, label=label)
        rows.append(DatasetRow(id=row_id, split=split, sources=(), messages=messages, label=label))
    return rows


def pairs(split: str, count: int) -> list[DatasetRow]:
    """An approved and a refused answer to each question."""
    rows = []
    for number in range(count):
        chosen, rejected = (
            (Message(role="assistant", content=content),) for content in (GOOD, BAD)
        )
        messages = _question(number)
        row_id = content_hash(None, messages, chosen=chosen, rejected=rejected)
        rows.append(
            DatasetRow(
                id=row_id,
                split=split,
                sources=(),
                messages=messages,
                chosen=chosen,
                rejected=rejected,
            )
        )
    return rows
