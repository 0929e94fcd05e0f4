"""Grammars that cost more than they say, or lead nowhere: what benchmarks.hostile sends, and what
tests/hostile/ holds the server to.
"""

import json
from collections.abc import Callable
from typing import Any

from serving.engine.sampling_params import StructuredOutput

Json = dict[str, Any]


def schema(value: Json) -> StructuredOutput:
    """A JSON schema."""
    return StructuredOutput("json_schema", json.dumps(value))


def lark(text: str) -> StructuredOutput:
    """A grammar in Lark's notation."""
    return StructuredOutput("lark", text)


def regex(text: str) -> StructuredOutput:
    """A regular expression."""
    return StructuredOutput("regex", text)


def keys(count: int, prefix: str = "key") -> Json:
    """An object of so many keys."""
    properties = {f"{prefix}{number}": {"type": "string"} for number in range(count)}
    return {"type": "object", "properties": properties}


def chain(count: int, link: Callable[[Json], Json]) -> Json:
    """Definitions of which each refers to the next."""
    links = {f"d{number}": link({"$ref": f"#/$defs/d{number + 1}"}) for number in range(count)}
    return {"$ref": "#/$defs/d0", "$defs": links | {f"d{count}": {"type": "string"}}}


def long_chain(beginning: str, name: str = "") -> Json:
    """More references than an object has keys, the definitions in groups."""
    links = [
        {"$anchor": f"d{number}", "allOf": [{"$ref": beginning.format(number=number + 1)}]}
        for number in range(2000)
    ]
    links[-1] = {"$anchor": "d1999", "type": "string"}
    groups = {f"g{at}": dict(enumerate(links[at : at + 400])) for at in range(0, 2000, 400)}
    defined = {key: {f"d{at}": link for at, link in group.items()} for key, group in groups.items()}
    return {"$id": name, "$defs": defined, "$ref": beginning.format(number=0)}


CYCLES: dict[str, Json] = {
    "itself": {"$ref": "#"},
    "through another": chain(2, lambda link: link) | {"$defs": {"d0": {"$ref": "#/$defs/d0"}}},
    "through two": {
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
        "properties": {"x": {"$ref": "#/$defs/a"}},
    },
    "through allOf": {"allOf": [{"$ref": "#"}]},
    "in one of several": {"anyOf": [{"type": "string"}, {"$ref": "#"}]},
    "of an optional key": {"properties": {"x": {"$ref": "#/properties/x"}}},
    "of a list": {"type": "array", "items": {"$ref": "#/items"}},
    "of other keys": {"additionalProperties": {"anyOf": [{"$ref": "#/additionalProperties"}]}},
    "of a place in a list": {"prefixItems": [{"$ref": "#/prefixItems/0"}]},
    "percent signs": {"items": {"$ref": "#/%69tems"}},
    "anchor": {"items": {"$anchor": "a", "$ref": "#a"}},
    "address": {"$id": "http://a/b", "items": {"$ref": "http://a/b#/items"}},
    "relative address": {"$id": "http://a/b", "items": {"$ref": "b#/items"}},
}
DOUBLING = "".join(f"A{n}: A{n + 1} A{n + 1} A{n + 1} A{n + 1}\n" for n in range(10))
# What is refused, and words of the reason.
HOSTILE: dict[str, tuple[StructuredOutput, str]] = {
    "4,500 keys": (schema(keys(4500)), "keys in one object"),
    "keys of many objects": (
        schema({"anyOf": [keys(400, f"k{number}_") for number in range(20)]}),
        "values in its schemas",
    ),
    "chain of references": (
        schema(chain(450, lambda link: {"type": "object", "properties": {"a": link}})),
        "objects inside one another",
    ),
    "chain through allOf": (
        schema(chain(450, lambda link: {"allOf": [link]})),
        "objects inside one another",
    ),
    "doubling references": (
        schema(chain(30, lambda link: {"allOf": [link, link]})),
        "schemas in one place",
    ),
    **{f"cycle: {name}": (schema(value), "leads back to itself") for name, value in CYCLES.items()},
    "cycle in Lark": (lark('start: "x" %json {"items": {"$ref": "#/items"}}'), "leads back"),
    "chain of percent signs": (
        schema(chain(490, lambda link: {"allOf": [{"$ref": link["$ref"].replace("$", "%24")}]})),
        "objects inside one another",
    ),
    "chain of anchors": (schema(long_chain("#d{number}")), "objects inside one another"),
    "chain of addresses": (
        schema(
            {"$id": "http://a/b"}
            | chain(490, lambda link: {"allOf": [{"$ref": "http://a/b" + link["$ref"]}]})
        ),
        "objects inside one another",
    ),
    "schemas with addresses": (
        schema({"$defs": {"a": {"$id": "http://a/b"}}, "$ref": "http://a/b"}),
        "refers to what is not in the schema",
    ),
    "address inside": (
        schema({"$defs": {"a": {"$id": "http://a/b"}}, "$ref": "#/$defs/a"}),
        'beside an "$id" inside',
    ),
    "combined alternatives": (
        schema(
            {
                "allOf": [
                    {"anyOf": [keys(1, f"k{place}_{number}_") for number in range(20)]}
                    for place in range(3)
                ]
            }
        ),
        "combinations of alternatives",
    ),
    "patterns of keys": (
        schema({"patternProperties": {f"^[a-z]*{n}[a-z]*$": {} for n in range(300)}}),
        "keys in one patternProperties",
    ),
    "nested repetition": (regex("(a{990}){1000}"), "990,000 symbols"),
    "repetition without an end": (regex("(a{990}){1000,}"), "symbols"),
    "repetition in a schema": (
        schema({"type": "string", "pattern": "^(a{500}){500}$"}),
        "symbols",
    ),
    "repetition in a key": (schema({"patternProperties": {"(a{500}){500}": {}}}), "symbols"),
    "repetition in white space": (
        schema({"type": "object", "x-guidance": {"whitespace_pattern": "(a{500}){500}"}}),
        "symbols",
    ),
    "many patterns": (
        schema({"anyOf": [{"type": "string", "pattern": "a{900}"} for _ in range(30)]}),
        "symbols",
    ),
    "bracket in a class": (regex("(x{990}[(]y){1000}"), "symbols"),
    "class in a class": (regex("(x{990}[a[(]]y){1000}"), "symbols"),
    "flag x": (regex("(?x) a #[ \n (b{990}){1000} #]"), "flag x"),
    "long pattern": (regex("a" * 9000), "a pattern has 9,000 characters"),
    "repetition in Lark": (lark("start: /(a{990}){1000}/"), "symbols"),
    "flag x in Lark": (lark("start: /a#[b/x"), "flag x"),
    "definition inside a pattern": (lark("start: A\nA: /(x\nB: {990}){1000}/"), "symbols"),
    "repeated terminal": (lark('start: A\nA: B{990}\nB: "x"{1000}'), "symbols"),
    "repeated with a tilde": (lark('start: A\nA: B ~ 990\nB: "x" ~ 1..1000'), "symbols"),
    "doubling terminals": (lark(f'start: A0\n{DOUBLING}A10: "a"'), "symbols"),
    "rules": (
        lark("start: r0\n" + "".join(f'r{n}: "a" r{n + 1}\n' for n in range(5000)) + 'r5000: "a"'),
        "1,001 rules",
    ),
    "schema in Lark": (lark(f"start: %json {json.dumps(keys(4500))}"), "keys in one object"),
    "hidden definition": (lark("start: A\n"), "uses A, which it does not define"),
    "deep JSON": (StructuredOutput("json_schema", "[" * 100_000), "nested too deeply"),
    "number of many digits": (
        StructuredOutput("json_schema", '{"minimum": ' + "9" * 9000 + "}"),
        "no JSON",
    ),
    "text": (lark("x" * 300_000), "300,000 characters"),
}
