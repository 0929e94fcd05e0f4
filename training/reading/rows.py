"""One row of a table of any format: a text, or a conversation in one of the known forms.

The id of a document is its own where the row has one, else the hash of its content. The content of
a text decides its side of the split, or its own id where the source names the field: adding rows
before it, or moving the file, changes neither. The side of a conversation hangs on its first
question alone, whatever the answer, the kind and the id.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from everloop.errors import DataError
from everloop.questions import first_question
from everloop.records import Document, content_hash
from training.corpus import Conversation, Dropped, Item
from training.reading.chat_formats import Exchange, MalformedRowError, read_exchange
from training.reading.options import (
    ReadOptions,
    has_lone_surrogate,
    make_document,
    make_dropped,
    sha256,
)

logger = logging.getLogger(__name__)

Row = Mapping[str, Any] | Dropped
_NAMED_ROWS = 3  # unusable rows that the log names, per file


def read_rows(
    location: str, rows: Iterable[tuple[int, Row]], unit: str, options: ReadOptions
) -> Iterator[Item]:
    """Make items of numbered rows; what cannot be used is yielded as dropped.

    Args:
        rows: number and content of each; a row that could not even be parsed is dropped already.
        unit: what a row is called in messages: line, row or record.

    Raises:
        DataError: not one row can be used.
    """
    usable = 0
    malformed: list[str] = []
    keys = ""
    for number, row in rows:
        item = row if isinstance(row, Dropped) else make_item(row, f"{location}:{number}", options)
        if isinstance(item, Dropped):
            malformed.append(f"{unit} {number} ({item.reason})" if len(malformed) < 3 else "")
            if not keys and not isinstance(row, Dropped):
                keys = f" {unit.capitalize()} {number} has {', '.join(map(str, row)) or 'no key'}."
        else:
            usable += 1
        yield item
    named = ", ".join(malformed[:_NAMED_ROWS])
    if malformed and not usable:
        raise DataError(
            f"{location}: none of its {len(malformed)} {unit}s can be used: {named}.{keys} Each "
            f"must have {wanted_keys(options)}, or a conversation in a known form, such as "
            "messages. Name other keys in [[data.source]]: text_field, or prompt_field and "
            "completion_field."
        )
    if malformed:
        logger.warning("%s: left out %d malformed %ss: %s", location, len(malformed), unit, named)


def wanted_keys(options: ReadOptions) -> str:
    """The keys that a row of this source must have, for messages."""
    if options.prompt_field is None:
        return repr(options.text_field)
    return f"{options.prompt_field!r} and {options.completion_field!r}"


def make_item(row: Mapping[str, Any], where: str, options: ReadOptions) -> Item:
    """The text or conversation of a row; dropped, with the reason, if it is neither."""
    try:
        exchange = read_exchange(_renamed(row, options))
        if exchange is not None:
            return _conversation(exchange, row, where, options)
        return _document(row, where, options)
    except MalformedRowError as error:
        shown = json.dumps(row, ensure_ascii=False, default=str)
        return make_dropped(where, str(error), shown)


def _renamed(row: Mapping[str, Any], options: ReadOptions) -> Mapping[str, Any]:
    """A question and its answer under the names that are known."""
    if options.prompt_field is None or options.completion_field is None:
        return row
    for field in (options.prompt_field, options.completion_field):
        if not isinstance(row.get(field), str):
            raise MalformedRowError("no_question_and_answer")
    return {"prompt": row[options.prompt_field], "completion": row[options.completion_field]}


def _document(row: Mapping[str, Any], where: str, options: ReadOptions) -> Document:
    text = row.get(options.text_field)
    if options.takes_any_text and not isinstance(text, str):
        text = "\n\n".join(_texts(row)) or None
    if not isinstance(text, str):
        raise MalformedRowError("no_text")
    if has_lone_surrogate(text):
        raise MalformedRowError("lone_surrogate")
    document = make_document("", where, text, options)
    identifier = _identifier(row, document.sha256, options)
    # Ids are often numbers of rows, which the next export deals out anew.
    group = None if options.groups_by_id else f"sha256:{sha256(text.strip())}"
    return document.model_copy(update={"id": identifier, "group": group})


def _texts(value: object) -> Iterator[str]:
    """Every text in a row, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


def _conversation(
    exchange: Exchange, row: Mapping[str, Any], where: str, options: ReadOptions
) -> Conversation:
    turns = (*exchange.messages, *(exchange.chosen or ()), *(exchange.rejected or ()))
    if any(has_lone_surrogate(turn.content) for turn in turns):
        raise MalformedRowError("lone_surrogate")
    digest = content_hash(
        None,
        exchange.messages,
        chosen=exchange.chosen,
        rejected=exchange.rejected,
        label=exchange.label,
        tools=exchange.tools,
    )
    identifier = _identifier(row, digest, options)
    return Conversation(
        id=identifier,
        messages=exchange.messages,
        chosen=exchange.chosen,
        rejected=exchange.rejected,
        label=exchange.label,
        tools=exchange.tools,
        source=where,
        licence=options.licence,
        document=identifier,
        question=first_question(exchange.messages),
        sha256=digest,
        collection=options.collection,
        language=options.language,
    )


def _identifier(row: Mapping[str, Any], digest: str, options: ReadOptions) -> str:
    own = row.get(options.id_field)
    if isinstance(own, str | int) and not isinstance(own, bool):
        return f"{options.collection}/{own}"
    return f"sha256:{digest}"
