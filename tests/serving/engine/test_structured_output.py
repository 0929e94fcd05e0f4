"""Grammars on masks, and on whole answers of a model whose weights are random."""

import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.errors import DataError
from serving.engine import structured_output
from serving.engine.llm_engine import LLMEngine
from serving.engine.sampling_params import GrammarKind, SamplingParams, StructuredOutput
from serving.engine.sequence import GenerationResult
from serving.engine.structured_output import GrammarCompiler, GrammarMatcher
from serving.engine.vocabulary import Vocabulary
from tests.serving.engine.conftest import byte_tokenizer

EOS = 0
VOCABULARY = Vocabulary(byte_tokenizer("é🙂", "ab"))
VOCAB_SIZE = 270  # more than the tokenizer has: the rest is padding
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "é", "🙂"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(VOCABULARY, VOCAB_SIZE, [EOS])


def _allowed(matcher: GrammarMatcher, vocab_size: int = VOCAB_SIZE) -> set[int]:
    logits = np.zeros(vocab_size, np.float32)
    tokens = matcher.mask(logits)
    return set((np.flatnonzero(logits == 0) if tokens is None else tokens).tolist())


def _tokens(text: str) -> list[int]:
    ids: list[int] = VOCABULARY.tokenizer.encode(text).ids
    return ids


def _walk(matcher: GrammarMatcher, seed: int) -> tuple[str, bool]:
    """Take allowed tokens at random; give the text, and whether it came to its end."""
    random = np.random.default_rng(seed)
    data = b""
    for _ in range(600):
        token = int(random.choice(sorted(_allowed(matcher))))
        if token == EOS:
            return data.decode(), True
        matcher.accept(token)
        data += VOCABULARY.bytes_of(token)
        if matcher.is_complete:
            return data.decode(), True
    return data.decode(errors="ignore"), False


def test_mask_allows_what_the_grammar_allows(compiler: GrammarCompiler) -> None:
    matcher = compiler.start(StructuredOutput("regex", "ab|b+"))
    a, b, ab = _tokens("a")[0], _tokens("b")[0], VOCABULARY.tokenizer.token_to_id("ab")
    assert _allowed(matcher) == {a, b, ab}
    matcher.accept(b)
    assert _allowed(matcher) == {b, EOS}
    assert not matcher.is_complete


@pytest.mark.parametrize(("pattern", "is_few"), [("a", True), ("[^é]", False)])
def test_mask_gives_few_tokens_or_masks_all_others(
    compiler: GrammarCompiler, pattern: str, is_few: bool
) -> None:
    logits = np.arange(VOCAB_SIZE, dtype=np.float32)
    tokens = compiler.start(StructuredOutput("regex", pattern)).mask(logits)
    if is_few:
        assert tokens is not None
        assert tokens.tolist() == _tokens("a")
        assert logits.tolist() == list(range(VOCAB_SIZE))
    else:
        assert tokens is None
        kept = np.flatnonzero(logits > -np.inf)
        assert 100 < kept.size < VOCAB_SIZE
        assert (logits[kept] == kept).all()


def test_forbidden_tokens_come_only_if_no_other_can(compiler: GrammarCompiler) -> None:
    matcher = compiler.start(StructuredOutput("regex", "(b(cd)?)?"))
    ends, logits = np.array([EOS, 5]), np.zeros(VOCAB_SIZE, np.float32)
    assert matcher.mask(logits, ends).tolist() == _tokens("b")
    matcher.accept(_tokens("b")[0])
    assert matcher.mask(logits, ends).tolist() == _tokens("c")
    matcher = compiler.start(StructuredOutput("regex", ""))
    assert matcher.mask(logits, ends).tolist() == [EOS]


def test_grammar_is_complete_when_nothing_can_follow(compiler: GrammarCompiler) -> None:
    matcher = compiler.start(StructuredOutput("lark", 'start: "a" "b"'))
    matcher.accept(VOCABULARY.tokenizer.token_to_id("ab"))
    assert matcher.is_complete


def test_text_that_is_forced_comes_as_the_tokenizer_would_write_it(
    compiler: GrammarCompiler,
) -> None:
    matcher = compiler.start(StructuredOutput("regex", "é🙂"))
    piece = VOCABULARY.tokenizer.token_to_id("é🙂")
    assert _allowed(matcher) == {piece}
    matcher.accept(piece)
    assert matcher.is_complete


def test_multi_byte_characters_are_allowed_byte_by_byte(compiler: GrammarCompiler) -> None:
    matcher = compiler.start(StructuredOutput("regex", "[é🙂]"))
    e, smile = _tokens("xé")[1:], _tokens("x🙂")[1:]
    assert _allowed(matcher) == {e[0], smile[0]}
    for token, following in pairwise(smile):
        matcher.accept(token)
        assert _allowed(matcher) == {following}
    matcher.accept(smile[-1])
    assert matcher.is_complete


def test_accept_refuses_a_token_outside_the_grammar(compiler: GrammarCompiler) -> None:
    matcher = compiler.start(StructuredOutput("regex", "a"))
    with pytest.raises(DataError, match="cannot be followed further"):
        matcher.accept(_tokens("b")[0])


def test_every_start_is_a_fresh_copy(compiler: GrammarCompiler) -> None:
    structured = StructuredOutput("regex", "[a-c][x-z]")
    first = compiler.start(structured)
    first.accept(_tokens("a")[0])
    assert _allowed(compiler.start(structured)) == {*_tokens("a"), *_tokens("b"), *_tokens("c")}


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_random_walks_through_a_schema_are_valid(seed: int) -> None:
    compiler = GrammarCompiler(VOCABULARY, VOCAB_SIZE, [EOS])
    text, is_whole = _walk(
        compiler.start(StructuredOutput("json_schema", json.dumps(SCHEMA))), seed
    )
    assert is_whole
    _check(json.loads(text))


def _leaf() -> st.SearchStrategy[dict[str, Any]]:
    bounds = st.tuples(st.integers(-50, 50), st.integers(0, 100))
    return st.one_of(
        st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"enum": [1, "é", None, "🙂"]}]),
        st.sampled_from([{"type": "string", "pattern": "^[a-é]{2}x$"}, {"const": {"a": [1, 2]}}]),
        st.sampled_from([{"type": "string", "format": "date"}, {"type": "integer"}]),
        st.integers(0, 4).map(lambda n: {"type": "string", "minLength": n, "maxLength": n + 2}),
        bounds.map(lambda b: {"type": "integer", "minimum": b[0], "maximum": b[0] + b[1]}),
        bounds.map(lambda b: {"type": "number", "minimum": b[0], "exclusiveMaximum": b[0] + 1}),
    )


def _object(parts: list[dict[str, Any]], num_required: int) -> dict[str, Any]:
    names = [f"k{index}é" for index in range(len(parts))]
    return {
        "type": "object",
        "properties": dict(zip(names, parts, strict=True)),
        "required": names[:num_required],
        "additionalProperties": False,
    }


SCHEMAS = st.recursive(
    _leaf(),
    lambda part: st.one_of(
        st.builds(_object, st.lists(part, max_size=4), st.integers(0, 4)),
        part.map(lambda item: {"type": "array", "items": item, "minItems": 1, "maxItems": 3}),
        st.lists(part, min_size=2, max_size=3).map(lambda parts: {"anyOf": parts}),
        part.map(lambda one: {"type": "array", "prefixItems": [one], "items": False}),
    ),
    max_leaves=6,
)


@given(SCHEMAS, st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_random_walks_through_random_schemas_are_valid(schema: dict[str, Any], seed: int) -> None:
    compiler = GrammarCompiler(VOCABULARY, VOCAB_SIZE, [EOS])
    matcher = compiler.start(StructuredOutput("json_schema", json.dumps(schema)))
    text, is_whole = _walk(matcher, seed)
    if is_whole:
        jsonschema.validate(json.loads(text), schema)


def test_random_walks_through_a_recursive_schema_are_valid(compiler: GrammarCompiler) -> None:
    node = {
        "type": "object",
        "properties": {"v": {"enum": [1, 2]}, "next": {"$ref": "#/$defs/node"}},
        "required": ["v"],
        "additionalProperties": False,
    }
    schema = {"$defs": {"node": node}, "$ref": "#/$defs/node"}
    for seed in range(10):
        matcher = compiler.start(StructuredOutput("json_schema", json.dumps(schema)))
        text, is_whole = _walk(matcher, seed)
        assert is_whole
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize(
    "pattern", [r"[a-cé]{3,5}🙂?", r"[0-9]{3}-[0-9]{2}", r"(foo|ba[rz]){1,4}!"]
)
@pytest.mark.parametrize("seed", range(5))
def test_random_walks_match_the_whole_expression(
    compiler: GrammarCompiler, pattern: str, seed: int
) -> None:
    text, _ = _walk(compiler.start(StructuredOutput("regex", pattern)), seed)
    assert re.fullmatch(pattern, text)


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("json_schema", '{"type": "x"}', "the JSON schema cannot be used: Invalid type: x."),
        (
            "json_schema",
            '{"not": {}}',
            'the JSON schema cannot be used: Unimplemented keys: ["not"].',
        ),
        ("json_schema", "{", "the JSON schema cannot be used: its schema is no JSON: "),
        ("json_schema", "[]", "the JSON schema cannot be used: "),
        ("json_schema", '{"uniqueItems": true}', 'Unimplemented keys: ["uniqueItems"].'),
        ("json_schema", '{"not": {}, "uniqueItems": false}', 'Unimplemented keys: ["not"].'),
        ("regex", "(", "the regular expression cannot be used: unclosed group."),
        ("regex", r"(a)\1", "backreferences are not supported."),
        ("lark", "start: x", 'the grammar cannot be used: at 1(8): unknown name: "x".'),
        ("regex", "a" * ((1 << 18) + 1), "has 262,145 characters, the limit is 262,144."),
    ],
)
def test_check_refuses_a_wrong_grammar_with_its_reason_in_one_line(
    compiler: GrammarCompiler, kind: GrammarKind, text: str, reason: str
) -> None:
    with pytest.raises(DataError) as error:
        compiler.check(StructuredOutput(kind, text))
    message = str(error.value)
    assert message.startswith("structured: ")
    assert reason in message
    assert "\n" not in message


IDLE: list[dict[str, Any]] = [
    {"type": "array", "uniqueItems": False},
    {"type": "array", "contains": {"type": "string"}, "minContains": 0},
    {"type": "array", "minContains": 2, "maxContains": 3},
    {"type": "array", "unevaluatedItems": True},
    {"type": "string", "format": "colour"},
    {"type": ["integer", "null"], "format": "int32"},
    {"type": "boolean", "uniqueItems": True, "propertyNames": {"pattern": "a"}},
    {"type": "object", "propertyNames": {}},
    {"type": "object", "unevaluatedProperties": {}},
    {"type": "object", "dependentRequired": {"a": []}, "dependentSchemas": {"a": True}},
    {"not": False, "enum": ["not"]},
    {"if": {"type": "string"}, "const": "if"},
    {"then": {"type": "string"}, "else": False, "const": 1},
]


@pytest.mark.parametrize(
    "idle", IDLE, ids=lambda idle: next(iter(idle.items()))[0] + str(idle)[:60]
)
@pytest.mark.parametrize("kind", ["json_schema", "lark"])
def test_keywords_that_ask_nothing_are_ignored(
    compiler: GrammarCompiler, idle: dict[str, Any], kind: GrammarKind
) -> None:
    """In every place of a schema, and not where they are names."""
    inner = {"format": {"enum": [1]}, "uniqueItems": {"$ref": "#/$defs/idle"}}
    schema = {
        "$defs": {"idle": idle},
        "type": "object",
        "properties": inner | {"all": {"allOf": [{"anyOf": [idle]}]}},
        "required": ["format"],
        "additionalProperties": False,
    }
    text = json.dumps(schema)
    compiler.check(
        StructuredOutput(kind, text if kind == "json_schema" else f"start: %json {text}")
    )
    matcher = compiler.start(StructuredOutput("json_schema", text))
    written, is_whole = _walk(matcher, 1)
    if is_whole:
        jsonschema.validate(json.loads(written), schema)


@pytest.mark.parametrize(
    ("schema", "start", "longest"),
    [
        ({"format": "date-time"}, '"2026-11-29T10:00:00.', 9),
        (
            {"format": "date-time", "pattern": "Z$", "allOf": [{"minLength": 3}]},
            '"2026-11-29T10:00:00.',
            9,
        ),
        ({"format": "time"}, '"10:00:00.', 9),
        ({"format": "duration"}, '"P', 9),
    ],
)
def test_digits_of_times_come_to_an_end(
    compiler: GrammarCompiler, schema: dict[str, Any], start: str, longest: int
) -> None:
    text = json.dumps({"type": "string"} | schema)
    matcher = compiler.start(StructuredOutput("json_schema", text))
    for token in _tokens(start):
        matcher.accept(token)
    (digit,) = _tokens("1")
    for _ in range(longest):
        assert digit in _allowed(matcher)
        matcher.accept(digit)
    assert digit not in _allowed(matcher)
    assert _allowed(matcher)


def test_schema_that_is_nested_too_deeply_is_refused(compiler: GrammarCompiler) -> None:
    schema: dict[str, Any] = {"format": "x"}
    for _ in range(600):
        schema = {"not": schema}
    with pytest.raises(DataError, match="nested too deeply"):
        compiler.check(StructuredOutput("json_schema", json.dumps(schema)))


def test_rule_that_leads_back_to_itself_ends_in_words(compiler: GrammarCompiler) -> None:
    with pytest.raises(DataError, match="leads back to itself"):
        compiler.check(StructuredOutput("lark", "start: start"))
    matcher = compiler.start(StructuredOutput("lark", 'start: "x" a\na: a'))
    matcher.accept(_tokens("x")[0])
    with pytest.raises(DataError, match="leads back to itself, so that nothing can follow"):
        _allowed(matcher)


def test_tokenizer_whose_tokens_have_no_bytes_is_refused() -> None:
    from tokenizers import Tokenizer, models

    vocabulary = Vocabulary(Tokenizer(models.BPE(vocab={}, merges=[])))
    with pytest.raises(DataError, match="no bytes of their own"):
        GrammarCompiler(vocabulary, 10, [0]).check(StructuredOutput("json_object"))


@pytest.mark.parametrize("eos_token_ids", [[], [EOS], [EOS, 5]])
@pytest.mark.parametrize("vocab_size", [259, 288, 289])
def test_masks_fit_every_number_of_tokens_and_end_tokens(
    vocab_size: int, eos_token_ids: list[int]
) -> None:
    compiler = GrammarCompiler(VOCABULARY, vocab_size, eos_token_ids)
    matcher = compiler.start(StructuredOutput("regex", "(xy)?"))
    assert _allowed(matcher, vocab_size) == {*eos_token_ids, *_tokens("x")}


def test_compiled_grammars_are_kept_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = StructuredOutput("regex", "a")
    GrammarCompiler(VOCABULARY, VOCAB_SIZE, [EOS]).check(kept)
    assert isinstance(kept.compiled, structured_output.CompiledGrammar)
    monkeypatch.setattr(structured_output, "_MAX_KEPT_BYTES", 2 * kept.compiled.num_bytes)
    compiler = GrammarCompiler(VOCABULARY, VOCAB_SIZE, [EOS])
    compiled: list[str] = []
    original = structured_output.LLMatcher

    def record(tokenizer: Any, grammar: str, **options: Any) -> Any:
        compiled.append(grammar)
        return original(tokenizer, grammar, **options)

    record.grammar_from_regex = original.grammar_from_regex  # type: ignore[attr-defined]
    monkeypatch.setattr(structured_output, "LLMatcher", record)
    for pattern in "abacab":
        compiler.check(StructuredOutput("regex", pattern))
    # "a" stays while it is used; "b" goes for "c", and comes again.
    assert [json.loads(one)["grammars"][0]["lark_grammar"][8] for one in compiled] == list("abcb")


def test_answers_begin_while_another_grammar_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiler = GrammarCompiler(VOCABULARY, VOCAB_SIZE, [EOS])
    known = StructuredOutput("regex", "a")
    compiler.check(known)
    is_compiling, may_go_on = threading.Event(), threading.Event()
    original = structured_output._grammar

    def slow(structured: StructuredOutput) -> str:
        is_compiling.set()
        assert may_go_on.wait(30)
        return original(structured)

    monkeypatch.setattr(structured_output, "_grammar", slow)
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(compiler.check, StructuredOutput("regex", "b"))
        assert is_compiling.wait(30)
        started = pool.submit(compiler.start, known).result(30)
        may_go_on.set()
        other.result(30)
    assert _allowed(started) == set(_tokens("a"))


def test_grammar_that_takes_too_long_ends(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structured_output, "_SECONDS_IN_RESERVE", 0.0)
    matcher = compiler.start(StructuredOutput("regex", "a"))
    with pytest.raises(DataError, match="cannot be followed further: it takes too long"):
        matcher.mask(np.zeros(VOCAB_SIZE, np.float32))


def test_ambiguous_grammar_ends_before_it_holds_up_the_others(compiler: GrammarCompiler) -> None:
    matcher = compiler.start(StructuredOutput("lark", 'start: s\ns: "a" | s s | s s s'))
    with pytest.raises(DataError, match="cannot be followed further: "):
        for _ in range(1000):
            matcher.mask(np.zeros(VOCAB_SIZE, np.float32))
            matcher.accept(_tokens("a")[0])


# Whole answers.


def _answer(engine: LLMEngine, kind: GrammarKind, text: str = "", **more: Any) -> GenerationResult:
    values = {"max_tokens": 120, "temperature": 1.0, "seed": 1} | more
    params = SamplingParams(structured=StructuredOutput(kind, text), **values)
    [result] = engine.generate([[5, 6, 7]], params)
    return result


def _check(value: Any) -> None:
    """What SCHEMA says."""
    assert list(value) == ["name", "age", "tags"]
    assert len(value["name"]) <= 6
    assert isinstance(value["age"], int)
    assert 0 <= value["age"] <= 150
    assert len(value["tags"]) <= 3
    assert set(value["tags"]) <= {"a", "é", "🙂"}


@pytest.fixture(scope="module")
def engine(tiny_version: Any, engine_config: Any) -> LLMEngine:
    return LLMEngine.load(tiny_version, engine_config)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
def test_random_weights_answer_by_the_schema(
    engine: LLMEngine, seed: int, temperature: float
) -> None:
    result = _answer(
        engine, "json_schema", json.dumps(SCHEMA), seed=seed, temperature=temperature, top_p=0.99
    )
    if result.finish_reason == "stop":
        _check(json.loads(result.text))
    else:  # random weights may fill the strings with whitespace until max_tokens
        assert len(result.token_ids) == 120
        assert result.text.startswith("{")


def test_answers_are_mostly_complete(engine: LLMEngine) -> None:
    reasons = [
        _answer(engine, "json_schema", json.dumps(SCHEMA), seed=seed).finish_reason
        for seed in range(8)
    ]
    assert reasons.count("stop") >= 4


def test_model_that_only_wants_whitespace_comes_to_an_end(
    engine: LLMEngine,
) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    schema["additionalProperties"] = False
    space, newline = (engine.tokenizer.encode(text).ids[0] for text in " \n")
    bias = {space: 100.0, newline: 100.0}
    result = _answer(engine, "json_schema", json.dumps(schema), logit_bias=bias)
    assert isinstance(json.loads(result.text)["a"], bool)
    assert max(map(len, re.findall(r"\s+", result.text))) == 16


def test_json_mode_gives_an_object(engine: LLMEngine) -> None:
    results = [_answer(engine, "json_object", seed=seed) for seed in range(6)]
    whole = [result for result in results if result.finish_reason == "stop"]
    assert whole
    assert all(isinstance(json.loads(result.text), dict) for result in whole)


def test_regex_answer_ends_when_nothing_can_follow(engine: LLMEngine) -> None:
    result = _answer(engine, "regex", "[a-z]{4}🙂")
    assert re.fullmatch("[a-z]{4}🙂", result.text)
    assert result.finish_reason == "stop"
    assert 2 not in result.token_ids


def test_end_token_comes_only_where_the_grammar_allows(engine: LLMEngine) -> None:
    bias = {0: 100.0, 2: 100.0}  # the end tokens are wanted at once
    result = _answer(engine, "regex", "ab(cd)*", logit_bias=bias)
    assert (result.text, result.finish_reason) == ("ab", "stop")
    assert result.token_ids[-1] in (0, 2)


def test_min_tokens_and_ignore_eos_keep_the_grammar(engine: LLMEngine) -> None:
    bias = {0: 100.0, 2: 100.0}
    result = _answer(engine, "regex", "ab(cd)*", logit_bias=bias, min_tokens=5)
    assert (result.text, result.finish_reason) == ("abcdcd", "stop")
    result = _answer(engine, "regex", "(ab){0,3}", logit_bias=bias, ignore_eos=True)
    assert (result.text, result.finish_reason) == ("ababab", "stop")
    result = _answer(engine, "regex", "ab", min_tokens=9)
    assert (result.text, result.finish_reason) == ("ab", "stop")


def test_stop_text_ends_a_structured_answer(engine: LLMEngine) -> None:
    result = _answer(engine, "regex", "abc[0-9]+", stop=("c",))
    assert (result.text, result.finish_reason) == ("ab", "stop")


def test_structured_answers_do_not_depend_on_batch_mates(engine: LLMEngine) -> None:
    each = [
        SamplingParams(
            max_tokens=40,
            seed=seed,
            structured=StructuredOutput("json_schema", json.dumps(SCHEMA)) if seed % 2 else None,
            logprobs=2,
        )
        for seed in range(6)
    ]
    prompts = [[5 + seed, 6, 7] for seed in range(6)]
    together = engine.generate(prompts, each)
    assert together == [
        engine.generate([prompt], one)[0] for prompt, one in zip(prompts, each, strict=True)
    ]


def test_wrong_grammar_is_refused_before_it_is_queued(
    load: Callable[..., LLMEngine], engine: LLMEngine
) -> None:
    params = SamplingParams(max_tokens=1, structured=StructuredOutput("regex", "("))
    with pytest.raises(DataError, match=r"^structured: the regular expression cannot be used"):
        engine.add_request("a", [5], params)
    assert not engine.has_unfinished
