"""Calls are found in whole answers and in answers that come in pieces of any size, alike."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.openai_api.tool_formats import HERMES, LLAMA, MISTRAL, TOOL_FORMATS
from serving.openai_api.tool_parser import CallPiece, ToolParser

ARGUMENTS = '{"a": "}<\\" x", "b": [1, {"c": 2}]}'
CALL = f'{{"name": "f", "arguments": {ARGUMENTS}}}'
EMPTY = '{"name": "g", "arguments": {}}'
F, G = ("f", ARGUMENTS), ("g", "{}")

CASES = {
    "text, then two calls": (
        HERMES,
        f"Sure.\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{EMPTY}\n</tool_call>",
        ("Sure.", [F, G]),
    ),
    "text between calls": (
        HERMES,
        f"<tool_call>{EMPTY}</tool_call> and <tool_call>{CALL}</tool_call>\n",
        ("and", [G, F]),
    ),
    "no call": (HERMES, "a < b <tool_ {} \n", ("a < b <tool_ {} \n", [])),
    "an opener without a call": (
        HERMES,
        "<tool_call>not JSON</tool_call> x",
        ("<tool_call>not JSON</tool_call> x", []),
    ),
    "an object that is no call": (
        HERMES,
        '<tool_call>{"x": 1}</tool_call>',
        ('<tool_call>{"x": 1}</tool_call>', []),
    ),
    "arguments first": (
        HERMES,
        '<tool_call>{"arguments": {"é": 1}, "name": "f"}</tool_call>',
        ("", [("f", '{"é": 1}')]),
    ),
    "no arguments": (HERMES, '<tool_call>{"name": "f"}</tool_call>', ("", [("f", "{}")])),
    "cut off in the arguments": (
        HERMES,
        'x <tool_call>\n{"name": "f", "arguments": {"a": [1',
        ("x", [("f", '{"a": [1')]),
    ),
    "ended before them": (
        HERMES,
        'x\n<tool_call>\n{"name": "f"',
        ('x\n<tool_call>\n{"name": "f"', []),
    ),
    "a list": (MISTRAL, f"[{CALL}, {EMPTY}]", ("", [F, G])),
    "a list with its mark": (MISTRAL, f"[TOOL_CALLS] [{CALL}]", ("", [F])),
    "another list": (MISTRAL, "[1, 2] is a list", ("[1, 2] is a list", [])),
    "a bare object": (LLAMA, CALL.replace("arguments", "parameters"), ("", [F])),
    "bare objects": (
        LLAMA,
        f" <|python_tag|>{CALL}; {EMPTY}".replace("arguments", "parameters"),
        ("", [F, G]),
    ),
    "another object": (LLAMA, '{"x": 1} ', ('{"x": 1} ', [])),
    "text with a brace": (LLAMA, "Use {x}.", ("Use {x}.", [])),
}


def parse(style, text: str, size: int, *, is_parallel: bool = True, is_cut: bool = False):
    parser = ToolParser(style, is_parallel=is_parallel)
    pieces = []
    for start in range(0, len(text), size):
        pieces += parser.add(text[start : start + size])
    pieces += parser.finish(is_cut=is_cut)
    content = "".join(piece for piece in pieces if isinstance(piece, str))
    calls: dict[int, list[str]] = {}
    for piece in pieces:
        if isinstance(piece, CallPiece):
            assert (piece.id is None) == (piece.name is None) == (piece.index in calls)
            call = calls.setdefault(piece.index, [piece.name, ""])
            call[1] += piece.arguments
    assert list(calls) == list(range(parser.num_calls))
    return content.strip() if calls else content, [tuple(call) for call in calls.values()]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_calls_are_found_in_pieces_of_any_size(name, size):
    style, text, expected = CASES[name]
    assert parse(style, text, size) == expected


WHOLE = {
    HERMES: (
        f"Sure.\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{EMPTY}\n</tool_call>",
        "Sure.",
    ),
    MISTRAL: (f"[TOOL_CALLS] [{CALL}, {EMPTY}]", ""),
    LLAMA: (f"<|python_tag|>{CALL}; {EMPTY}".replace("arguments", "parameters"), ""),
}


@pytest.mark.parametrize("style", TOOL_FORMATS, ids=lambda style: style.marker)
@pytest.mark.parametrize("size", [1, 4, 1000])
def test_cut_anywhere_no_markup_becomes_content(style, size):
    text, before = WHOLE[style]
    for end in range(len(text) + 1):
        content, calls = parse(style, text[:end], size, is_cut=True)
        assert content.rstrip() == before[:end]
        for call, whole in zip(calls, [F, G], strict=False):
            assert call[0] == whole[0]
            assert whole[1].startswith(call[1])


@pytest.mark.parametrize(
    ("style", "text", "content"),
    [
        (HERMES, "a < b", "a < b"),
        (HERMES, "a <tool_ b", "a <tool_ b"),
        (HERMES, "a <tool_", "a"),
        (HERMES, "<tool_call>none", "<tool_call>none"),
        (HERMES, '<tool_call>{"x": 1', ""),
        (MISTRAL, "[1, 2", "[1, 2"),
        (MISTRAL, '[{"x": 1', '[{"x": 1'),
        (MISTRAL, '[{"arguments": {"a": 1}, "na', ""),
        (LLAMA, '{"x": 1, "name": "f', '{"x": 1, "name": "f'),
        (LLAMA, '{"nam', ""),
        (LLAMA, '{"nap', '{"nap'),
        (LLAMA, "{x", "{x"),
        (LLAMA, " \n", " \n"),
    ],
)
def test_cut_keeps_what_can_be_no_call(style, text, content):
    assert parse(style, text, 2, is_cut=True) == (content, [])


def test_arguments_come_as_they_are_written():
    parser = ToolParser(HERMES, is_parallel=True)
    assert parser.add('<tool_call>{"name": "f", "argu') == []
    (first, second) = parser.add('ments": {"a')
    assert (first.index, first.name, first.arguments) == (0, "f", "")
    assert second == CallPiece(0, '{"a')
    assert parser.add('": 1}') == [CallPiece(0, '": 1}')]
    assert parser.add("}</tool_call>") == []


def test_only_one_call_without_parallel_calls():
    text = f"<tool_call>{CALL}</tool_call><tool_call>{EMPTY}</tool_call>"
    assert parse(HERMES, text, 5, is_parallel=False) == ("", [F])


def test_ids_are_as_long_as_the_template_wants_them():
    # Mistral's templates refuse any other.
    (piece, *_) = ToolParser(MISTRAL, is_parallel=True).add('[{"name": "f", "arguments": {')
    assert len(piece.id) == 9
    assert piece.id.isalnum()


def test_ids_differ():
    parser = ToolParser(LLAMA, is_parallel=True)
    pieces = parser.add('{"name": "f", "parameters": {}}; {"name": "f", "parameters": {}}')
    ids = [piece.id for piece in pieces if piece.id]
    assert len(set(ids)) == 2
    assert all(call_id.startswith("call_") for call_id in ids)


FRAGMENTS = st.sampled_from(
    ["<tool_call>", "</tool_call>", "{", "}", "[", "]", '"', "\\", '"name": ', '"arguments": ',
     '"parameters": ', '"f"', ", ", "; ", "\n", "x", "[TOOL_CALLS]", "1", "\x00", "\\u00e9"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(TOOL_FORMATS), st.lists(FRAGMENTS, max_size=14).map("".join))
def test_any_text_is_parsed_alike_in_any_pieces(style, text):
    whole = parse(style, text, len(text) or 1)
    assert parse(style, text, 1) == parse(style, text, 3) == whole
    cut = parse(style, text, len(text) or 1, is_cut=True)
    assert parse(style, text, 1, is_cut=True) == parse(style, text, 3, is_cut=True) == cut
    assert whole[0].startswith(cut[0])
    if not whole[1]:
        assert whole[0] == text


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)
VALUES = st.dictionaries(NAMES, st.one_of(st.integers(), NAMES, st.lists(NAMES, max_size=2)))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(TOOL_FORMATS), st.lists(st.tuples(NAMES, VALUES), min_size=1, max_size=3))
def test_what_the_format_writes_is_read_back(style, calls):
    objects = [json.dumps({"name": name, style.arguments: values}) for name, values in calls]
    text = style.begin + style.between.join(objects) + style.end
    content, found = parse(style, text, 4)
    assert content == ""
    assert [(name, json.loads(arguments)) for name, arguments in found] == calls
