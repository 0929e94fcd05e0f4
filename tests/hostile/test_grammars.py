"""Grammars that cost more than they say: refused by a count, before the library compiles them.

Some of them end the process: the library recurses along references.
"""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.hostile_grammars import HOSTILE, chain, keys, lark, regex, schema
from everloop.errors import DataError
from serving.engine import structured_output
from serving.engine.grammar_limits import MAX_SYMBOLS, GrammarCost, measure
from serving.engine.pattern_size import pattern_size
from serving.engine.sampling_params import SamplingParams
from serving.engine.sequence_factory import SequenceFactory
from serving.engine.structured_output import GrammarCompiler
from serving.engine.vocabulary import Vocabulary
from tests.serving.fakes import ScriptedVersion, byte_tokenizer

VOCABULARY = Vocabulary(byte_tokenizer())


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
