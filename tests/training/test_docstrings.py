import ast
import sysconfig
from pathlib import Path

import pytest

from everloop.errors import DataError
from training import docstrings
from training.docstrings import Entry, Module, read_modules

SOURCE = '''"""Paths."""

def join(a: str, *p: str) -> str:
    """Join two paths."""

if True:
    def split(p, /, *, sep="/"):
        """Split a path."""
else:
    def split(p):
        """Another split."""

def undocumented(): ...

def _hidden():
    """Not for others."""

class Path(str):
    """A path."""

    def __init__(self, text: str = ""):
        """Make it."""

    @property
    def name(self):
        """The last part."""

    @staticmethod
    def home(user):
        """A home folder."""

    @classmethod
    def cwd(cls):
        """The current folder."""
'''


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    return tmp_path


def write(library: Path, name: str, text: str = SOURCE) -> None:
    path = library / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_read_modules_collects_documented_definitions(library: Path) -> None:
    write(library, "shutil.py")
    assert list(read_modules()) == [
        Module(
            "shutil",
            "Paths.",
            (
                Entry("shutil.join", "function", "(a, *p)", "Join two paths.", True),
                Entry("shutil.split", "function", "(p, /, *, sep='/')", "Split a path.", True),
                Entry("shutil._hidden", "function", "()", "Not for others.", False),
                Entry("shutil.Path", "class", "(text='')", "A path.", True),
                Entry("shutil.Path.__init__", "function", "(text='')", "Make it.", False),
                Entry("shutil.Path.name", "property", "", "The last part.", True),
                Entry("shutil.Path.home", "function", "(user)", "A home folder.", True),
                Entry("shutil.Path.cwd", "function", "()", "The current folder.", True),
            ),
        )
    ]


def test_read_modules_skips_what_a_distribution_may_leave_out(library: Path) -> None:
    for name in (
        "json/__init__.py", "json/decoder.py", "json/tests/test_json.py", "tkinter/__init__.py",
        "distutils/core.py", "site-packages/json.py", "sitecustomize.py", "turtle.py",
    ):  # fmt: skip
        write(library, name)
    assert [module.name for module in read_modules()] == ["json", "json.decoder"]


def test_read_modules_uses_the_documented_names(library: Path) -> None:
    write(library, "posixpath.py")
    module = next(read_modules())
    assert (module.name, module.topic) == ("os.path", "os")
    assert module.entries[0].name == "os.path.join"
    assert module.entries[0].is_public


def test_read_modules_joins_a_cover_with_the_file_behind_it(library: Path) -> None:
    write(library, "_pydecimal.py", 'def f():\n    """Inner."""\ndef g():\n    """Inner."""\n')
    write(library, "decimal.py", '"""Outer."""\ndef f():\n    """Outer."""\n')
    (module,) = read_modules()
    assert (module.name, module.docstring) == ("decimal", "Outer.")
    assert {entry.name: entry.docstring for entry in module.entries} == {
        "decimal.f": "Inner.",
        "decimal.g": "Inner.",
    }
    assert all(entry.is_public for entry in module.entries)


def test_read_modules_sorts_by_name(library: Path) -> None:
    for name in ("_pydecimal.py", "os.py", "posixpath.py", "abc.py"):
        write(library, name)
    assert [module.name for module in read_modules()] == ["abc", "decimal", "os", "os.path"]


def test_read_modules_calls_nothing_in_a_private_module_public(library: Path) -> None:
    write(library, "_strptime.py")
    assert not any(entry.is_public for entry in next(read_modules()).entries)


def test_read_modules_reads_one_topic(library: Path) -> None:
    write(library, "json/decoder.py")
    write(library, "os.py")
    assert [module.name for module in read_modules("json")] == ["json.decoder"]


def test_read_modules_leaves_out_modules_without_documentation(library: Path) -> None:
    write(library, "os.py", "x = 1\n")
    assert list(read_modules()) == []


def test_read_modules_without_source_files_names_the_remedy(library: Path) -> None:
    with pytest.raises(DataError, match=r"holds no source files .* data\.sources"):
        list(read_modules())


def test_read_modules_names_an_unparsable_file(library: Path) -> None:
    write(library, "os.py", "def broken(:\n")
    with pytest.raises(DataError, match=r"os\.py is no readable source file"):
        list(read_modules())


def test_read_modules_reads_other_encodings(library: Path) -> None:
    (library / "os.py").write_bytes('# coding: latin-1\n"""Café"""\n'.encode("latin-1"))
    assert next(read_modules()).docstring == "Café"


def test_signature_that_is_too_long_is_shortened() -> None:
    function = ast.parse(f"def f({', '.join(f'parameter_{i}' for i in range(20))}): ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    assert docstrings._signature(function.args, skip_first=False) == "(...)"
