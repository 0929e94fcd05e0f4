"""The embedded corpus: the documentation that comes with Python, as text and as questions.

Text is one document per topic of `help()` and one per module of the standard library. Pairs ask
what a public function or class does; the answer is the first paragraph of its docstring. Both
depend on nothing but the version of Python.
"""

import hashlib
import importlib
import re
from collections.abc import Iterator

from everloop.records import Document, Message
from training.corpus import Conversation
from training.docstrings import Entry, Module, read_modules

NAME = "python-docs"
LICENCE = "PSF-2.0"
_MIN_DOCSTRING_CHARACTERS = 40
_MIN_ANSWER_CHARACTERS = 20
_MAX_ANSWER_CHARACTERS = 240

_QUESTIONS = {
    "function": (
        "What does {name}{signature} do?",
        "Explain {name}{signature}.",
        "What is {name} for?",
        "How does {name}{signature} work?",
        "Describe the function {name}{signature}.",
    ),
    "class": (
        "What is {name}?",
        "Explain the class {name}.",
        "What is {name} for?",
        "Describe {name}{signature}.",
    ),
    "property": ("What is {name}?", "What does {name} hold?", "Explain {name}."),
}
_LIST = re.compile(r"(?m)^\s*(?:[-*+:@]|\w[\w ]*:\s*$)")  # the first line of a list, or its heading
_SIGNATURE = re.compile(r"[\w.]+\(.*\)(?:\s*->.*)?\.?")
_SENTENCE_END = re.compile(r"(?<!e\.g)(?<!i\.e)(?<!etc)(?<!\bvs)[.!?][\"')\]]*(?=\s|$)")


def read(seed: int = 0) -> Iterator[Document | Conversation]:
    """Read everything: the topics of `help()`, then each module followed by its pairs.

    Args:
        seed: chooses the wording of each question.

    Raises:
        DataError: this Python comes without the library's source files.
    """
    for name, text in sorted(_help_topics().items()):
        yield _document(f"help/{name}", text.strip(), "pydoc_data.topics")
    for module in read_modules():
        yield _document(_document_id(module), _module_text(module), module.name)
        yield from _pairs(module, seed)


def pairs(topic: str | None = None, seed: int = 0) -> list[Conversation]:
    """Make the question-answer pairs alone, sorted by module.

    Args:
        topic: of this top-level package only.
        seed: chooses the wording of each question.

    Raises:
        DataError: this Python comes without the library's source files.
    """
    return [pair for module in read_modules(topic) for pair in _pairs(module, seed)]


def _help_topics() -> dict[str, str]:
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    return topics


def _document(identifier: str, text: str, source: str) -> Document:
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return Document(id=identifier, text=text, source=source, licence=LICENCE, sha256=digest)


def _document_id(module: Module) -> str:
    return f"stdlib/{module.name}"


def _module_text(module: Module) -> str:
    parts = [module.name]
    if module.docstring:
        parts.append(module.docstring)
    for entry in module.entries:
        parts.append(f"{entry.name}{entry.signature}\n\n{entry.docstring}")
    return "\n\n".join(parts)


def _pairs(module: Module, seed: int) -> Iterator[Conversation]:
    for entry in module.entries:
        answer = _answer(entry)
        if answer:
            yield _pair(module, entry, answer, seed)


def _pair(module: Module, entry: Entry, answer: str, seed: int) -> Conversation:
    questions = _QUESTIONS[entry.kind]
    draw = hashlib.sha256(f"{seed}:{entry.name}".encode()).digest()
    question = questions[int.from_bytes(draw[:4]) % len(questions)]
    question = question.format(name=entry.name, signature=entry.signature)
    return Conversation(
        id=f"stdlib/{entry.name}?",
        messages=(
            Message(role="user", content=question),
            Message(role="assistant", content=answer),
        ),
        source=entry.name,
        licence=LICENCE,
        document=_document_id(module),
        topic=module.topic,
    )


def _answer(entry: Entry) -> str | None:
    """Take the first paragraph of prose, cut after its last whole sentence that fits, or None."""
    if not entry.is_public or len(entry.docstring) < _MIN_DOCSTRING_CHARACTERS:
        return None
    paragraph = _first_prose(entry.docstring)
    if len(paragraph) <= _MAX_ANSWER_CHARACTERS:
        return paragraph or None
    ends = [match.end() for match in _SENTENCE_END.finditer(paragraph)]
    fitting = [end for end in ends if _MIN_ANSWER_CHARACTERS <= end <= _MAX_ANSWER_CHARACTERS]
    return paragraph[: fitting[-1]] if fitting else None


def _first_prose(docstring: str) -> str:
    r"""Find the first paragraph that reads on its own; "" if a list or an example comes first.

    `"join(a, *p) -> str\n\nJoin two paths."` gives `"Join two paths."`.
    """
    for paragraph in re.split(r"\n[ \t]*\n", docstring):
        text = " ".join(_LIST.split(paragraph, maxsplit=1)[0].split())
        if text.endswith(":") or ">>>" in text:
            return ""
        if len(text) >= _MIN_ANSWER_CHARACTERS and not _SIGNATURE.fullmatch(text):
            return text
    return ""
