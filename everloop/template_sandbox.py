"""Where chat templates run: what they may call, and how much they may do before they are stopped.

A template is data from a model's folder, and its loops follow what a client sends. It cannot be
interrupted from outside, so it counts for itself: every body that can run more than once begins
with a tick, every call is a tick, and every text is measured before it is made.
"""

import json
import re
import string
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any

from jinja2 import TemplateError, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from everloop.errors import TemplateLimitError
from everloop.template_ticks import GenerationMarks, Ticks

MAX_SOURCE = 1 << 18  # characters of a template
MAX_TICKS = 100_000  # rounds of loops, calls and filters of one rendering
MAX_TEXT = 1 << 22  # characters of one text
MAX_WRITTEN = 1 << 26  # characters of all texts of one rendering together
MAX_SECONDS = 1.0  # processor time of one rendering: for what no other count sees
_TICKS_PER_LOOK = 64  # at the clock
_PER_MEMBER = 16  # characters that a member of a list counts for, beside its own
_MAX_INT_BITS = 4096
_MAX_DIGITS = 3  # of a width in a format
_MAX_INDENT = 16

# Those that chat templates use and that make no more than they are given, but for the ones below.
_FILTERS = (
    "abs", "attr", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first",
    "float", "groupby", "indent", "int", "items", "join", "last", "length", "list", "lower", "map",
    "max", "min", "reject", "rejectattr", "replace", "reverse", "round", "safe", "select",
    "selectattr", "sort", "string", "title", "trim", "unique", "upper", "wordcount",
)  # fmt: skip
# Of texts; all others, and all methods of numbers and bytes, can make much out of little.
_TEXT_METHODS = frozenset({
    "capitalize", "casefold", "count", "endswith", "find", "format", "index", "isalnum", "isalpha",
    "isascii", "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper",
    "join", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind",
    "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip",
    "swapcase", "title", "upper",
})  # fmt: skip
_WIDE = re.compile(rf"\*|\d{{{_MAX_DIGITS + 1},}}")


class _Spent(threading.local):
    """What the rendering of this thread has used so far."""

    def __init__(self) -> None:
        self.ticks = 0
        self.characters = 0
        self.started = time.thread_time()


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """A Jinja environment whose templates are stopped when they do too much."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[GenerationMarks, "jinja2.ext.loopcontrols"],
            finalize=_measured,
        )
        self.spent = _Spent()
        self.globals = {name: self.globals[name] for name in ("dict", "namespace", "range")}
        kept = {name: self.filters[name] for name in _FILTERS}
        kept |= {"join": self._join, "replace": self._replace, "string": self._string}
        kept |= {"indent": self._indent, "tojson": self._to_json}
        self.filters = {name: self._ticking(function) for name, function in kept.items()}

    def compile_text(self, source: str) -> Any:
        """Make a template that counts what it does.

        Raises:
            TemplateLimitError: it is too long.
            jinja2.TemplateError, RecursionError: it is no template.
        """
        if len(source) > MAX_SOURCE:
            raise TemplateLimitError(
                f"the template has {len(source):,} characters, the limit is {MAX_SOURCE:,}"
            )
        self.start()
        tree = Ticks().visit(self.parse(source))
        return self.from_string(tree.set_environment(self))

    def render(self, template: Any, variables: Mapping[str, Any]) -> str:
        """Write a template.

        Raises:
            TemplateLimitError: it does too much.
            Exception: whatever the template raises.
        """
        self.start()
        pieces = []
        for piece in template.root_render_func(template.new_context(dict(variables))):
            self.spend(len(piece))
            pieces.append(piece)
        return "".join(pieces)

    def start(self) -> None:
        """Begin to count anew in this thread."""
        self.spent.__init__()  # type: ignore[misc]

    def tick(self, characters: int = 0) -> bool:
        """Count one round of a body that writes so many characters of its own; always true."""
        spent = self.spent
        spent.ticks += 1
        if spent.ticks > MAX_TICKS:
            raise TemplateLimitError(f"it takes more than {MAX_TICKS:,} steps")
        if not spent.ticks % _TICKS_PER_LOOK and (time.thread_time() - spent.started > MAX_SECONDS):
            raise TemplateLimitError(f"it computes for more than {MAX_SECONDS:g} seconds")
        self.spend(characters)
        return True

    def spend(self, characters: int) -> None:
        """Count a text that is made."""
        self.spent.characters += characters
        if characters > MAX_TEXT or self.spent.characters > MAX_WRITTEN:
            raise TemplateLimitError(
                f"it writes a text of more than {MAX_TEXT:,} characters, or more than "
                f"{MAX_WRITTEN:,} in all"
            )

    def weigh(self, value: Any) -> int:
        """Count the characters that a value has when it is written, members of members included."""
        if isinstance(value, str):
            return len(value)
        total, left = 0, [value]
        while left:
            one = left.pop()
            if isinstance(one, str):
                total += len(one)
            elif isinstance(one, Mapping):
                left += [*one.keys(), *one.values()]
            elif isinstance(one, list | tuple | set):
                left += one
            total += _PER_MEMBER
            if total > MAX_TEXT:
                raise TemplateLimitError(f"a value has more than {MAX_TEXT:,} characters")
        return total

    def concatenate(self, *values: Any) -> str:
        """The operator `~`."""
        self.spend(sum(map(self.weigh, values)))
        return "".join(map(str, values))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call what a template calls, after a look at what it would make."""
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if owner is __self:  # `tick` and `concatenate` count for themselves
            return __obj(*args)
        __self.tick()
        if isinstance(owner, str):
            __self._check_method(owner, name, args)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute what can be larger than what it is made of, if it is not too large."""
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * (abs(right) if operator == "**" else 1)
            if operator in ("*", "**") and bits + right.bit_length() > _MAX_INT_BITS:
                raise TemplateLimitError("it computes a number that is too large")
        elif operator == "*":
            size, times = (right, left) if isinstance(left, int) else (left, right)
            if isinstance(times, int):
                self.spend(max(0, times) * self.weigh(size))
        elif operator == "%" and isinstance(left, str):
            self._check_format(left, left.count("%"), right)
        elif operator == "+" and not isinstance(left, int | float):
            self.spend(_length(left) + _length(right))
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Of texts the harmless methods, of numbers and bytes none."""
        if isinstance(obj, str) and attr not in _TEXT_METHODS:
            return False
        if isinstance(obj, int | float | bytes) and callable(value):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """The method `format` of texts, for formats without great widths."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def checked(*args: Any, **kwargs: Any) -> str:
            fields = list(string.Formatter().parse(value.__self__))
            for _, _, specification, _ in fields:
                if specification and ("{" in specification or _WIDE.search(specification)):
                    raise TemplateLimitError(f"the format {specification!r} is too wide")
            self._spend_fields(len(fields), [*args, *kwargs.values()])
            return wrapped(*args, **kwargs)

        return checked

    def _check_method(self, text: str, name: str, args: Sequence[Any]) -> None:
        if name == "replace" and len(args) >= 2:
            self._spend_replaced(text, str(args[0]), str(args[1]))
        elif name == "join" and args and isinstance(args[0], list | tuple | str):
            self._spend_joined(args[0], text)
        else:
            self.spend(len(text))

    def _check_format(self, text: str, num_fields: int, values: Any) -> None:
        if _WIDE.search(text):
            raise TemplateLimitError(f"the format {text[:40]!r} is too wide")
        self._spend_fields(num_fields, list(values) if isinstance(values, tuple) else [values])

    def _spend_fields(self, num_fields: int, values: Sequence[Any]) -> None:
        longest = max(map(self.weigh, values), default=0)
        self.spend(num_fields * (longest + 10**_MAX_DIGITS))

    def _spend_replaced(self, text: str, old: str, new: str) -> None:
        self.spend(len(text) + text.count(old) * len(new))

    def _spend_joined(self, members: Sequence[Any] | str, separator: str) -> None:
        self.spend(self.weigh(members) + len(members) * len(separator))

    def _ticking(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)  # keeps what Jinja notes on a function that wants its context
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            return function(*args, **kwargs)

        return counted

    def _join(self, value: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
        members = list(value)
        if attribute is not None:
            members = [self.getitem(member, attribute) for member in members]
        self._spend_joined(members, str(d))
        return str(d).join(map(str, members))

    def _replace(self, value: Any, old: str, new: str, count: int = -1) -> str:
        self._spend_replaced(self._string(value), str(old), str(new))
        return str(value).replace(str(old), str(new), count)

    def _string(self, value: Any) -> str:
        self.spend(self.weigh(value))
        return str(value)

    def _indent(
        self, value: Any, width: int | str = 4, first: bool = False, blank: bool = False
    ) -> str:
        margin = " " * min(width, MAX_TEXT) if isinstance(width, int) else width
        text = self._string(value)
        self.spend(len(text) + (text.count("\n") + 1) * len(margin))
        lines = text.split("\n")
        rest = [margin + line if line or blank else line for line in lines[1:]]
        return "\n".join([margin + lines[0] if first else lines[0], *rest])

    def _to_json(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        # As transformers has it: jinja2's own filter writes < and > as escapes, for web pages.
        if indent is not None and not (isinstance(indent, int) and indent <= _MAX_INDENT):
            raise TemplateLimitError(f"tojson indents by {indent!r}, {_MAX_INDENT} is the most")
        self.spend(self.weigh(value))
        form: dict[str, Any] = {"indent": indent, "separators": separators, "sort_keys": sort_keys}
        return json.dumps(value, ensure_ascii=ensure_ascii, **form)


@pass_context
def _measured(context: Context, value: Any) -> Any:
    # It asks for the context so that Jinja computes nothing when it compiles.
    environment: Any = context.environment
    environment.spend(environment.weigh(value))
    return value


def _length(value: Any) -> int:
    try:
        return len(value)
    except TypeError:
        return 0


def refuse(message: str) -> None:
    """What a template calls to refuse a conversation."""
    raise TemplateError(message)
