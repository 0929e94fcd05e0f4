"""Grammars that cost more than they say: refused by a count, before the library compiles them.

Some of them end the process: the library recurses along references.
"""

import json
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.errors import DataError
from serving.engine import structured_output
from serving.engine.grammar_limits import MAX_SYMBOLS, GrammarCost, measure
from serving.engine.pattern_size import pattern_size
from serving.engine.sampling_params import SamplingParams, StructuredOutput
from serving.engine.sequence_factory import SequenceFactory
from serving.engine.structured_output import GrammarCompiler
from serving.engine.vocabulary import Vocabulary
from tests.serving.fakes import ScriptedVersion, byte_tokenizer

VOCABULARY = Vocabulary(byte_tokenizer())


def schema(value) -> StructuredOutput:
    return StructuredOutput("json_schema", json.dumps(value))


def lark(text: str) -> StructuredOutput:
    return StructuredOutput("lark", text)


def regex(text: str) -> StructuredOutput:
    return StructuredOutput("regex", text)


def keys(count: int, prefix: str = "key"):
    properties = {f"{prefix}{number}": {"type": "string"} for number in range(count)}
    return {"type": "object", "properties": properties}


def chain(count: int, link):
    """Definitions of which each refers to the next."""
    links = {f"d{number}": link({"$ref": f"#/$defs/d{number + 1}"}) for number in range(count)}
    return {"$ref": "#/$defs/d0", "$defs": links | {f"d{count}": {"type": "string"}}}


def long_chain(beginning: str, name: str = ""):
    """More references than an object has keys, the definitions in groups."""
    links = [
        {"$anchor": f"d{number}", "allOf": [{"$ref": beginning.format(number=number + 1)}]}
        for number in range(2000)
    ]
    groups = {f"g{at}": dict(enumerate(links[at : at + 400])) for at in range(0, 2000, 400)}
    defined = {key: {f"d{at}": link for at, link in group.items()} for key, group in groups.items()}
    return {"$id": name, "$defs": defined, "$ref": beginning.format(number=0)}


CYCLES = {
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
HOSTILE = {
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


@pytest.fixture
def compiler() -> GrammarCompiler:
    return GrammarCompiler(VOCABULARY, 259, [0])


@pytest.fixture
def compiled(monkeypatch):
    """Grammars that reach the library."""
    found = []
    original = structured_output._grammar
    monkeypatch.setattr(
        structured_output, "_grammar", lambda one: (found.append(one), original(one))[1]
    )
    return found


@pytest.mark.parametrize(("grammar", "reason"), HOSTILE.values(), ids=HOSTILE.keys())
def test_costly_grammar_is_refused_before_it_is_compiled(compiler, compiled, grammar, reason):
    with pytest.raises(DataError) as caught:
        compiler.check(grammar)
    message = str(caught.value)
    assert message.startswith("structured: ")
    assert message.endswith(".")
    assert reason in message
    assert compiled == []


@pytest.mark.parametrize(
    "grammar",
    [
        schema(keys(100) | {"required": ["key1"], "additionalProperties": False}),
        schema({"anyOf": [keys(5, f"k{number}_") for number in range(20)]}),
        schema({"type": "array", "items": {"$ref": "#"}}),
        schema({"$defs": {"a b": {"type": "null"}}, "$ref": "#/$defs/a%20b"}),
        schema({"$defs": {"a": {"$anchor": "b", "type": "null"}}, "$ref": "#b"}),
        schema({"$id": "http://a/b", "$defs": {"a": {"type": "null"}}, "$ref": "b#/$defs/a"}),
        schema({"const": {"$ref": "#"}}),
        schema({"properties": {"$ref": {"type": "null"}, "a": {"$ref": "#/properties/$ref"}}}),
        schema({"enum": [f"value {number}" for number in range(2000)]}),
        schema(chain(100, lambda link: {"type": "object", "properties": {"a": link}})),
        schema({"type": "string", "pattern": r"^[\d(]{4}-\d{2}-\d{2}T(\d{2}:){2}\d{2}$"}),
        regex(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}"),
        lark('start: (WORD " "){1,50} NUMBER?\nWORD: /[a-z]{1,20}/\nNUMBER: /[0-9]+/ // digits'),
        lark('%import common.INT\nstart: INT ("," INT)*'),
        lark('start: %json {"type": "object"} "x"'),
    ],
)
def test_ordinary_grammar_passes(compiler, compiled, grammar):
    compiler.check(grammar)
    assert compiled == [grammar]


def test_library_has_limits_of_its_own_for_what_is_found_only_there(compiler, compiled):
    with pytest.raises(DataError, match="fuel exhausted"):
        compiler.check(lark("start: A\nA: /.*a.{30}/ & /.*b.{40}/ & /.*c.{50}/"))
    assert len(compiled) == 1


_ATOMS = st.sampled_from(["a", ".", r"\(", r"\{", "[ab]", "[(]", "[^]a]", "[a[b]]", "é"])


def _nested(inner):
    group = st.lists(inner, min_size=1, max_size=3).map(
        lambda parts: ("(" + "".join(text for text, _ in parts) + ")", sum(n for _, n in parts))
    )
    times = st.tuples(group, st.integers(0, 3), st.integers(3, 9)).map(
        lambda one: (f"{one[0][0]}{{{one[1]},{one[2]}}}", one[0][1] * one[2])
    )
    return group | times


@settings(max_examples=100, deadline=None)
@given(st.recursive(_ATOMS.map(lambda atom: (atom, 1)), _nested, max_leaves=12))
def test_size_of_a_pattern_is_that_of_its_repetitions_written_out(case):
    pattern, size = case
    assert pattern_size(pattern) == size


def test_kept_grammars_are_bounded_in_bytes(compiler, compiled):
    for number in range(40):
        compiler.check(regex(f"a{{{MAX_SYMBOLS - 1000 - number}}}"))
    assert len(compiled) == 40
    sizes = [one.num_bytes for one in compiler._kept.values()]
    assert sum(sizes) == compiler._kept_bytes <= structured_output._MAX_KEPT_BYTES
    assert 1 <= len(sizes) < 40


def test_what_is_kept_counts_for_more_than_it_takes():
    """Measured: (a{140}){140} takes 4 MB, an object of 4,500 keys 14 MB, 2,500 rules 23 MB."""
    assert measure(regex("(a{140}){140}")).num_bytes > 8 * 2**20
    assert (
        measure(schema({"anyOf": [keys(450, f"k{n}_") for n in range(10)]})).num_bytes > 30 * 2**20
    )
    assert GrammarCost().num_bytes > 2**16


def test_engine_does_not_compile_again_what_others_have_pushed_out(compiled, monkeypatch):
    monkeypatch.setattr(structured_output, "_MAX_KEPT_BYTES", 0)
    version = ScriptedVersion()
    factory = SequenceFactory(version.manifest, version.tokenizer)
    params = SamplingParams(max_tokens=4, structured=regex("abc"))
    factory.check([5], params)
    made = []
    engine = threading.Thread(
        target=lambda: made.append(factory.make("a", [5], params, None, "", None))
    )
    engine.start()
    engine.join()
    assert len(made) == len(compiled) == 1
