"""CSV and Parquet: one text or conversation per row."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from everloop.errors import DataError
from training.corpus import Item
from training.reading.compressed import content_suffix, opened
from training.reading.options import ReadOptions
from training.reading.rows import Row, read_rows, wanted_keys

_CHAT_COLUMNS = (
    {"messages"}, {"conversations"}, {"chosen", "rejected"}, {"prompt", "completion"},
    {"instruction", "output"}, {"preferred_output"},
)  # fmt: skip
_BATCH_ROWS = 256
_MAX_FIELD_BYTES = 1 << 30


def read_csv(location: str, options: ReadOptions) -> Iterator[Item]:
    """Read a table with a heading; a column of JSON, such as messages, is parsed.

    Raises:
        DataError: the file is no UTF-8 table, has no known column, or no row can be used.
    """
    csv.field_size_limit(_MAX_FIELD_BYTES)
    delimiter = "\t" if content_suffix(location) == ".tsv" else ","
    with opened(location) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        table = csv.DictReader(text, delimiter=delimiter)
        try:
            _require_column(location, list(table.fieldnames or ()), options)
            yield from read_rows(location, _csv_rows(table), "row", options)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{location}: row {table.line_num} is not UTF-8. Convert the file to UTF-8."
            ) from error
        except csv.Error as error:
            raise DataError(f"{location}: row {table.line_num}: {error}.") from error


def read_parquet(location: str, options: ReadOptions) -> Iterator[Item]:
    """Read a Parquet file batch by batch.

    Raises:
        DataError: the file is no Parquet, has no known column, or no row can be used.
    """
    with opened(location) as file:
        try:
            table = pq.ParquetFile(file)
            _require_column(location, table.schema_arrow.names, options)
            yield from read_rows(location, _parquet_rows(table), "row", options)
        except pa.ArrowException as error:
            raise DataError(f"{location} is no readable Parquet file ({error}).") from error


def _csv_rows(table: "csv.DictReader[str]") -> Iterator[tuple[int, Row]]:
    for row in table:
        yield table.line_num, {key: _parsed(value) for key, value in row.items() if key}


def _parsed(value: object) -> object:
    if isinstance(value, str) and value[:1] in "[{" and value.strip():
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _parquet_rows(table: pq.ParquetFile) -> Iterator[tuple[int, Row]]:
    number = 0
    for batch in table.iter_batches(batch_size=_BATCH_ROWS):
        for row in batch.to_pylist():
            number += 1
            yield number, cast(dict[str, Any], row)


def _require_column(location: str, columns: list[str], options: ReadOptions) -> None:
    """Before the first row, so that a wrong column is one sentence and not a million drops."""
    own = (options.prompt_field, options.completion_field)
    if options.prompt_field is not None:
        is_known = set(own) <= set(columns)
    else:
        has_chat = any(wanted <= set(columns) for wanted in _CHAT_COLUMNS)
        is_known = has_chat or options.takes_any_text or options.text_field in columns
    if not is_known:
        raise DataError(
            f"{location} has no column {wanted_keys(options)}; it has {', '.join(columns)}. Name "
            "the text's column with text_field in [[data.source]], or those of a question and its "
            "answer with prompt_field and completion_field."
        )
