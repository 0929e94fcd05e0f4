"""JSON schemas as the grammar's library takes them: without keywords that ask nothing.

The library refuses keywords that it does not implement, also where they allow everything, and
formats that it does not know, which JSON Schema leaves without effect.
Source: JSON Schema 2020-12, Core section 6.5 and Validation sections 6 and 7.2.
"""

import json
from typing import Any

from everloop.errors import DataError
from serving.engine.grammar_limits import lark_schemas
from serving.engine.sampling_params import StructuredOutput

_FORMATS = frozenset(
    ["date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"]
)  # that the library knows
# The library lets digits go on without an end, and weak models then write nothing else.
_NANOSECONDS = r"^[^.]*(\.[0-9]{1,9}([^0-9].*)?)?$"
_NINE_DIGITS = r"^([^0-9]+[0-9]{1,9})*[^0-9]*$"
_BOUNDS = {"date-time": _NANOSECONDS, "time": _NANOSECONDS, "duration": _NINE_DIGITS}

# Keywords whose values hold schemas: by name, in a list, or are one.
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_ONES = (
    *("items", "additionalProperties", "additionalItems", "propertyNames", "contains"),
    *("not", "if", "then", "else", "unevaluatedItems", "unevaluatedProperties"),
)
_TYPES = {
    "format": "string",
    **dict.fromkeys(
        ("uniqueItems", "contains", "minContains", "maxContains", "unevaluatedItems"), "array"
    ),
    **dict.fromkeys(
        ("propertyNames", "unevaluatedProperties", "dependencies", "dependentRequired"), "object"
    ),
    "dependentSchemas": "object",
}  # what a keyword says something about


def adapted(structured: StructuredOutput) -> StructuredOutput:
    """The same answers in the library's terms; the very same object where nothing changes.

    Raises:
        DataError: a schema is nested too deeply.
        ValueError: a schema is no JSON.
    """
    try:
        if structured.kind == "json_schema":
            text = _adapted_text(structured.text, json.loads(structured.text))
        elif structured.kind == "lark":
            text = _adapted_lark(structured.text)
        else:
            return structured
    except RecursionError as error:
        raise DataError("it is nested too deeply") from error
    return structured if text == structured.text else StructuredOutput(structured.kind, text)


def _adapted_lark(text: str) -> str:
    parts, place = [], 0
    for begin, end, schema in lark_schemas(text):
        parts += [text[place:begin], _adapted_text(text[begin:end], schema)]
        place = end
    return "".join([*parts, text[place:]])


def _adapted_text(text: str, schema: Any) -> str:
    changed = _adapted(schema)
    return text if changed == schema else json.dumps(changed)


def _adapted(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    kept = {
        name: _adapted_members(name, value)
        for name, value in schema.items()
        if not _asks_nothing(name, value, schema)
    }
    form = kept.get("format")
    if isinstance(form, str) and form in _BOUNDS:
        both = kept.get("allOf", [])
        if isinstance(both, list):
            kept["allOf"] = [*both, {"pattern": _BOUNDS[form]}]
    return kept


def _adapted_members(name: str, value: Any) -> Any:
    if isinstance(value, dict) and name in _MAPS:
        return {key: _adapted(member) for key, member in value.items()}
    if isinstance(value, list) and name in _LISTS:
        return [_adapted(member) for member in value]
    return _adapted(value) if name in _ONES else value


def _asks_nothing(name: str, value: Any, schema: dict[str, Any]) -> bool:
    """Whether every value is as good with a keyword as without it."""
    types = schema.get("type")
    named = [types] if isinstance(types, str) else types
    if name in _TYPES and isinstance(named, list) and named and _TYPES[name] not in named:
        return True
    match name:
        case "uniqueItems" | "not":
            return value is False
        case "format":
            return isinstance(value, str) and value not in _FORMATS
        case "if":
            return "then" not in schema and "else" not in schema
        case "then" | "else":
            return "if" not in schema
        case "propertyNames" | "unevaluatedItems" | "unevaluatedProperties":
            return _is_any(value)
        case "dependencies" | "dependentRequired" | "dependentSchemas":
            return isinstance(value, dict) and all(map(_is_any, value.values()))
        case "contains" | "minContains":
            none_needed = schema.get("minContains") == 0 and "maxContains" not in schema
            return none_needed or "contains" not in schema
        case "maxContains":
            return "contains" not in schema
    return False


def _is_any(schema: Any) -> bool:
    """Whether a schema, or a list of required keys, lets everything pass."""
    return schema is True or schema in ({}, [])
