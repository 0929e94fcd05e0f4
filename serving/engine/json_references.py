"""References inside a JSON schema: what each refers to, read as the grammar's library reads it.

Whoever measures a schema must find the same target as the library does, or what is behind a
reference is not counted: it may be written with percent signs, with the schema's own address, or
as the name of an anchor.
"""

from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from everloop.errors import DataError

_MAX_SHOWN = 60


class References:
    """The references of one schema.

    Args:
        root: the schema, as JSON.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        address = root.get("$id") if isinstance(root, dict) else None
        self._address = urldefrag(address).url if isinstance(address, str) else ""
        self._anchors: dict[str, Any] = {}
        self._has_parts = False  # schemas inside with addresses of their own
        self._has_old_parts = self._is_old = False  # as drafts 3 and 4 named them
        left = [root]
        while left:
            value = left.pop()
            if isinstance(value, dict):
                self._note(value)
                left += value.values()
            elif isinstance(value, list):
                left += value

    def target(self, reference: str) -> Any:
        """What is referred to.

        Raises:
            DataError: nothing, or another schema, or what depends on where the reference stands.
        """
        try:
            address, fragment = urldefrag(urljoin(self._address, reference))
        except ValueError:
            address, fragment = reference, ""
        if address != self._address:
            raise DataError(f'"$ref": {shown(reference)} refers to what is not in the schema')
        if self._has_parts or (self._is_old and self._has_old_parts):
            raise DataError(
                f'"$ref": {shown(reference)} stands beside an "$id" inside the schema, '
                "which is not supported"
            )
        found = self._find(unquote(fragment))
        if found is None:
            raise DataError(f'"$ref": {shown(reference)} refers to nothing')
        return found

    def _find(self, fragment: str) -> Any:
        if fragment and not fragment.startswith("/"):
            return self._anchors.get(fragment)
        value = self._root
        for step in fragment.split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
                value = value[int(step)]
            else:
                return None
        return value

    def _note(self, value: dict[str, Any]) -> None:
        if isinstance(anchor := value.get("$anchor"), str):
            self._anchors.setdefault(anchor, value)
        if value is not self._root:
            self._has_parts |= isinstance(value.get("$id"), str)
            self._has_old_parts |= isinstance(value.get("id"), str)
        draft = value.get("$schema")
        self._is_old |= isinstance(draft, str) and ("draft-03" in draft or "draft-04" in draft)


def shown(reference: str) -> str:
    """A reference as a message quotes it."""
    cut = reference if len(reference) <= _MAX_SHOWN else reference[: _MAX_SHOWN - 3] + "..."
    return repr(cut)
