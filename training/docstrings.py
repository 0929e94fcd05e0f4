"""The docstrings of the standard library, read from its source files without importing them.

Only what every distribution of Python ships is read: packages that some leave out (tkinter,
distutils, …) and tests are skipped, so that the same Python gives the same corpus everywhere.
"""

import ast
import copy
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from everloop.errors import DataError

_SKIPPED_PACKAGES = frozenset({
    "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "tkinter", "turtle",
    "turtledemo", "venv",
})  # fmt: skip
_SKIPPED_FOLDERS = frozenset({"test", "tests", "site-packages", "dist-packages", "__pycache__"})

# Modules that are documented under another name than that of their file; which of them are thin
# covers over a private file differs from version to version.
_PUBLIC_NAMES = {
    "_collections_abc": "collections.abc",
    "_pydatetime": "datetime",
    "_pydecimal": "decimal",
    "_pyio": "io",
    "pathlib._local": "pathlib",
    "posixpath": "os.path",
}
_MAX_SIGNATURE_CHARACTERS = 80

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, slots=True)
class Entry:
    """A documented function, class, method or property.

    Attributes:
        name: with its module and class: `os.path.join`.
        signature: `(a, *p)`, without self and annotations; empty for a property.
    """

    name: str
    kind: Literal["function", "class", "property"]
    signature: str
    docstring: str
    is_public: bool


@dataclass(frozen=True, slots=True)
class Module:
    """A module with everything documented in it, in the order of the source."""

    name: str
    docstring: str
    entries: tuple[Entry, ...]

    @property
    def topic(self) -> str:
        """The top-level package: `os` for `os.path`."""
        return self.name.partition(".")[0]


def read_modules(topic: str | None = None) -> Iterator[Module]:
    """Read the documented modules of the running Python's standard library, sorted by name.

    Args:
        topic: read this top-level package only.

    Raises:
        DataError: this Python comes without the library's source files.
    """
    library = Path(sysconfig.get_path("stdlib"))
    sources = list(_source_files(library))
    if not sources:
        raise DataError(
            f"{library} holds no source files of the standard library, which the python-docs "
            "corpus is read from. Use a regular Python, or your own files as data.sources."
        )
    modules: dict[str, Module] = {}
    for path, name in sources:
        if topic is None or name.partition(".")[0] == topic:
            module = _read_module(path, name)
            modules[name] = _merge(modules[name], module) if name in modules else module
    for _, module in sorted(modules.items()):
        if module.docstring or module.entries:
            yield module


def _source_files(library: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if not parts or parts[0] not in sys.stdlib_module_names:
            continue
        if parts[0] not in _SKIPPED_PACKAGES and _SKIPPED_FOLDERS.isdisjoint(parts):
            name = ".".join(parts)
            yield path, _PUBLIC_NAMES.get(name, name)


def _read_module(path: Path, name: str) -> Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the library's own source may deserve
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"{path} is no readable source file of Python {sys.version_info.major}."
            f"{sys.version_info.minor} ({error}). Repair the Python installation."
        ) from error
    entries: dict[str, Entry] = {}
    _collect(tree.body, name, not _is_private(name), False, entries)
    return Module(name, ast.get_docstring(tree) or "", tuple(entries.values()))


def _merge(first: Module, second: Module) -> Module:
    """Join two files that make up one module; of two entries with one name, the first counts."""
    entries = {entry.name: entry for entry in (*second.entries, *first.entries)}
    return Module(first.name, first.docstring or second.docstring, tuple(entries.values()))


def _collect(
    body: list[ast.stmt], prefix: str, is_public: bool, in_class: bool, entries: dict[str, Entry]
) -> None:
    """Add the documented definitions of a body; of several with one name, the first counts."""
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            _collect([*node.body, *node.orelse], prefix, is_public, in_class, entries)
        if not isinstance(node, _Definition):
            continue
        name = f"{prefix}.{node.name}"
        public = is_public and not node.name.startswith("_")
        docstring = ast.get_docstring(node)
        if docstring and name not in entries:
            entries[name] = _entry(node, name, docstring, public, in_class)
        if isinstance(node, ast.ClassDef):
            _collect(node.body, name, public, True, entries)


def _entry(node: _Definition, name: str, docstring: str, is_public: bool, in_class: bool) -> Entry:
    if isinstance(node, ast.ClassDef):
        makers = (part for part in node.body if isinstance(part, ast.FunctionDef))
        init = next((part for part in makers if part.name == "__init__"), None)
        signature = _signature(init.args, skip_first=True) if init else "()"
        return Entry(name, "class", signature, docstring, is_public)
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    if any(decorator.endswith("property") for decorator in decorators):
        return Entry(name, "property", "", docstring, is_public)
    skip_first = in_class and "staticmethod" not in decorators
    return Entry(name, "function", _signature(node.args, skip_first), docstring, is_public)


def _signature(arguments: ast.arguments, skip_first: bool) -> str:
    """Write the parameters as a caller sees them: no self, no annotations.

    `def join(self, a: str, *p)` of a method gives `(a, *p)`.
    """
    arguments = copy.deepcopy(arguments)  # a constructor's are written twice
    for argument in ast.walk(arguments):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    positional = arguments.posonlyargs or arguments.args
    if skip_first and positional:
        del positional[0]
    text = f"({ast.unparse(arguments)})"
    return text if len(text) <= _MAX_SIGNATURE_CHARACTERS else "(...)"


def _is_private(name: str) -> bool:
    return any(part.startswith("_") for part in name.split("."))
