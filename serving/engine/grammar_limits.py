"""What a grammar may cost, counted in its text before it is compiled.

Compiling runs in a thread that nobody can end, and in a library that recurses: a chain of a
thousand references overflows its stack and ends the process. So a grammar is measured first, by
what its compiling grows with: values of a schema (keys of one object count by their square),
nesting with the references followed, schemas after references are written out, and symbols of
patterns after repetitions are. The library's own limits bound what comes after that.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from everloop.errors import DataError
from serving.engine.json_references import References, shown
from serving.engine.pattern_size import pattern_size
from serving.engine.sampling_params import StructuredOutput

MAX_TEXT = 1 << 18  # characters of a schema or grammar
MAX_VALUES = 10_000  # of all schemas of a grammar
MAX_KEYS = 500  # of one object
MAX_NESTING = 800  # objects one inside the other, those that are referred to included
MAX_EXPANDED = 5000  # schemas of one place, where a reference stands for what it refers to
MAX_ALTERNATIVES = 256  # of one place, where alternatives are combined with others
MAX_SYMBOLS = 20_000  # of all patterns and terminals, repetitions written out
MAX_PATTERN_KEYS = 50  # of one object; each is compared with each
MAX_RULES = 1000

# Measured as resident memory of compiled grammars, upper bounds.
_BYTES_FIXED = 1 << 17
_BYTES_PER_VALUE = 1 << 12
_BYTES_PER_SYMBOL = 1 << 10

_LARK = re.compile(
    r'(?P<skip>//[^\n]*|\#[^\n]*|->\s*\w+|[ \t\n|?*+]+)|(?P<string>"(?:\\.|[^"\\\n])*")'
    r"|/(?P<regex>(?:\\.|[^/\\])+)/(?P<flags>[a-z]*)|(?P<json>%json\s*)|(?P<open>[(\[])"
    r"|(?P<close>[)\]])|(?:\{|~)\s*(?P<low>\d{0,9})\s*(?:,|\.\.)?\s*(?P<high>\d{0,9})\s*\}?"
    r"|%import(?P<imported>[^\n]*)|(?P<token><[^<>\s]+>)"
    r"|(?P<definition>[A-Za-z_]\w*)(?:\.-?\d+)?(?:\[[^\]\n]*\])?[ \t]*:"
    r"|(?P<name>[A-Za-z_]\w*)|(?P<other>.)",
    re.DOTALL,
)
_Item = tuple[str, int | str]  # size, open, close, times, name or definition; and its value


@dataclass(slots=True)
class GrammarCost:
    """What a grammar holds.

    Attributes:
        values: of its schemas.
        symbols: of its patterns and terminals, repetitions written out.
    """

    values: int = 0
    symbols: int = 0

    @property
    def num_bytes(self) -> int:
        """Memory of the compiled grammar, an upper bound."""
        each = self.values * _BYTES_PER_VALUE + self.symbols * _BYTES_PER_SYMBOL
        return _BYTES_FIXED + each

    def add_values(self, count: int) -> None:
        """Count values of a schema."""
        self.values += count
        _check(self.values, MAX_VALUES, "values in its schemas")

    def add_symbols(self, count: int) -> None:
        """Count symbols of a pattern."""
        self.symbols += count
        _check(self.symbols, MAX_SYMBOLS, "symbols when its repetitions are written out")


def measure(structured: StructuredOutput) -> GrammarCost:
    """Measure a grammar.

    Raises:
        DataError: it is too large, with what there is too much of; or its schema is no JSON.
    """
    cost = GrammarCost()
    _check(len(structured.text), MAX_TEXT, "characters")
    try:
        if structured.kind == "regex":
            cost.add_symbols(pattern_size(structured.text))
        elif structured.kind == "json_schema":
            _measure_schema(json.loads(structured.text), cost)
        elif structured.kind == "lark":
            _Lark(structured.text, cost).measure()
    except RecursionError as error:
        raise DataError("it is nested too deeply") from error
    except ValueError as error:
        raise DataError(f"its schema is no JSON: {error}") from error
    return cost


def lark_schemas(text: str) -> Iterator[tuple[int, int, Any]]:
    """The JSON schemas inside a grammar in Lark's notation: begin, end, and what stands there.

    Raises:
        ValueError: one is no JSON.
    """
    place = 0
    while token := _LARK.match(text, place):
        place = token.end()
        if token["json"]:
            begin = place
            schema, place = json.JSONDecoder().raw_decode(text, begin)
            yield begin, place, schema


def _check(found: int, limit: int, what: str) -> None:
    if found > limit:
        raise DataError(f"it has {found:,} {what}, the limit is {limit:,}")


def _measure_schema(root: Any, cost: GrammarCost) -> None:
    references = References(root)
    nested = {"#": 0}  # what is referred to, by the reference, and how deep it is
    for value, depth in _walk(root):
        cost.add_values(1)
        nested["#"] = max(nested["#"], depth)
        if not isinstance(value, dict):
            continue
        _check(len(value), MAX_KEYS, "keys in one object of its schema")
        if isinstance(patterns := value.get("patternProperties"), dict):
            _check(len(patterns), MAX_PATTERN_KEYS, "keys in one patternProperties")
            for pattern in patterns:
                cost.add_symbols(pattern_size(pattern))
        for name in ("pattern", "whitespace_pattern"):
            if isinstance(pattern := value.get(name), str):
                cost.add_symbols(pattern_size(pattern))
        reference = value.get("$ref")
        if isinstance(reference, str) and reference not in nested:
            nested[reference] = max(depth for _, depth in _walk(references.target(reference)))
            _check(sum(nested.values()), MAX_NESTING, "objects inside one another in its schema")
    _check(sum(nested.values()), MAX_NESTING, "objects inside one another in its schema")
    _Expansion(root, references).check()


def _walk(root: Any) -> Iterator[tuple[Any, int]]:
    """Every value of a schema, with the number of objects around it."""
    left = [(root, 0)]
    while left:
        value, depth = left.pop()
        yield value, depth
        if isinstance(value, dict):
            left += [(member, depth + 1) for member in value.values()]
        elif isinstance(value, list):
            left += [(member, depth) for member in value]


class _Expansion:
    """Counts the schemas of one place, and its alternatives, with references written out."""

    def __init__(self, root: Any, references: References) -> None:
        self._root = root
        self._references = references
        self._known: dict[int, tuple[int, int]] = {}
        self._begun: set[int] = set()  # places that are being measured

    def check(self) -> None:
        """Look at every place."""
        for value, _ in _walk(self._root):
            if isinstance(value, dict):
                self._measure(value)

    def _measure(self, schema: Any) -> tuple[int, int]:
        """Schemas and alternatives of a place."""
        if not isinstance(schema, dict):
            return 1, 1
        if id(schema) in self._known:
            return self._known[id(schema)]
        self._begun.add(id(schema))
        size, factors = 1, []
        for name in ("anyOf", "oneOf", "allOf"):
            members = schema.get(name)
            found = [self._measure(m) for m in members] if isinstance(members, list) else []
            size += sum(one for one, _ in found)
            alternatives = [many for _, many in found]
            factors += alternatives if name == "allOf" else [sum(alternatives)]
        if isinstance(reference := schema.get("$ref"), str):
            target = self._references.target(reference)
            if id(target) in self._begun:
                raise DataError(
                    f'"$ref": {shown(reference)} leads back to itself with no value in between'
                )
            one, many = self._measure(target)
            size, factors = size + one, [*factors, many]
        _check(size, MAX_EXPANDED, "schemas in one place when references are written out")
        product = 1
        for factor in factors:
            if product > 1 and factor > 1:
                _check(product * factor, MAX_ALTERNATIVES, "combinations of alternatives")
            product *= max(1, factor)
        self._begun.remove(id(schema))
        self._known[id(schema)] = size, product
        return size, product


class _Lark:
    """Measures a grammar in Lark's notation: its terminals are patterns that contain others."""

    def __init__(self, text: str, cost: GrammarCost) -> None:
        self._text = text
        self._cost = cost
        self._imported: set[str] = set()
        self._sizes: dict[str, int] = {}
        self._bodies: dict[str, list[_Item]] = {}

    def measure(self) -> None:
        """Measure every definition."""
        body = head = list[_Item]()
        for item in self._items():
            if item[0] == "definition":
                body = self._bodies.setdefault(str(item[1]), [])
                _check(len(self._bodies), MAX_RULES, "rules")
            else:
                body.append(item)
        self._cost.add_symbols(self._size_of_body(head))
        for name in self._bodies:
            self._cost.add_symbols(self._size_of(name))

    def _items(self) -> Iterator[_Item]:
        """What the grammar consists of, in order."""
        place = 0
        while token := _LARK.match(self._text, place):
            place = token.end()
            if token["json"]:
                schema, place = json.JSONDecoder().raw_decode(self._text, place)
                _measure_schema(schema, self._cost)
                yield "size", 1
            elif token["definition"] or token["name"]:
                kind = "definition" if token["definition"] else "name"
                yield kind, token["definition"] or token["name"]
            elif token["open"] or token["close"]:
                yield ("open" if token["open"] else "close"), 0
            elif token["low"] or token["high"]:
                yield "times", max(int(token["low"] or 0), int(token["high"] or 0), 1)
            elif token["regex"]:
                yield "size", pattern_size(token["regex"], token["flags"])
            elif token["string"] or token["token"]:
                yield "size", len(token[0])
            elif token["imported"]:
                self._imported.update(re.findall(r"\w+", token["imported"]))

    def _size_of(self, name: str) -> int:
        if name not in self._sizes:
            if name not in self._bodies and name not in self._imported:
                raise DataError(f"it uses {name[:40]}, which it does not define")
            self._sizes[name] = 1  # for a name inside its own definition
            self._sizes[name] = max(1, self._size_of_body(self._bodies.get(name, [])))
        return self._sizes[name]

    def _size_of_body(self, items: list[_Item]) -> int:
        sizes, last = [0], 0  # of the open groups; of the last item
        for kind, value in items:
            if kind == "open":
                sizes.append(0)
                continue
            if kind == "close":
                last = sizes.pop() if len(sizes) > 1 else 0
            elif kind == "times":
                last *= int(value) - 1  # once it was counted before
            elif kind == "name":  # a rule stands for itself, a terminal for all that it contains
                last = 1 if str(value).islower() else self._size_of(str(value))
            else:
                last = int(value)
            sizes[-1] += last
            _check(sizes[-1], MAX_SYMBOLS, "symbols when its repetitions are written out")
        return sum(sizes)
