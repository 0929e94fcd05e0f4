"""How large a regular expression is when its repetitions are written out.

In the notation of the grammar's library, which is that of Rust. What looks like a repetition and
is none counts as one: the size is an upper bound.
"""

import re

from everloop.errors import DataError

_MAX_PATTERN = 8192  # characters
_REPETITION = re.compile(r"\{(\d*)(?:,(\d*))?\}")
_VERBOSE = re.compile(r"\(\?[a-zA-Z-]*x")


def pattern_size(pattern: str, flags: str = "") -> int:
    """Count the symbols of a pattern.

    Args:
        pattern: the pattern.
        flags: letters that stand behind it.

    Raises:
        DataError: it is too long, or has the flag x, under which comments look like the rest.
    """
    if len(pattern) > _MAX_PATTERN:
        raise DataError(f"a pattern has {len(pattern):,} characters, the limit is {_MAX_PATTERN:,}")
    if "x" in flags or _VERBOSE.search(pattern):
        raise DataError("the flag x of a pattern is not supported")
    sizes, last, place = [0], 0, 0  # of the open groups; of the last item
    while place < len(pattern):
        character = pattern[place]
        if character == "{" and (times := _REPETITION.match(pattern, place)):
            place, last = times.end(), last * (_times(times) - 1)  # once it was counted before
        elif character == "(":
            sizes.append(0)
            place += 1
            continue
        elif character == ")":
            place, last = place + 1, max(1, sizes.pop()) if len(sizes) > 1 else 1
        elif character == "[":
            place, last = _end_of_class(pattern, place), 1
        else:
            place, last = place + (2 if character == "\\" else 1), 1
        sizes[-1] += last
    return sum(sizes)


def _times(repetition: re.Match[str]) -> int:
    low, high = (int(digits[:9] or 0) for digits in (repetition[1], repetition[2] or ""))
    return max(low, high, 1)


def _end_of_class(pattern: str, place: int) -> int:
    """Where a class ends; classes hold classes, and a bracket that comes first is a member."""
    depth = 0
    while place < len(pattern):
        character = pattern[place]
        if character == "\\":
            place += 1
        elif character == "[":
            depth += 1
            if pattern[place + 1 : place + 2] == "^":
                place += 1
            if pattern[place + 1 : place + 2] == "]":
                place += 1
        elif character == "]":
            depth -= 1
            if not depth:
                return place + 1
        place += 1
    return place
