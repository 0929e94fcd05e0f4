"""Stops are found where a search in the whole text finds them."""

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engine.stop_matcher import StopMatcher

TEXT = st.text("ab", max_size=40)
STOPS = st.lists(st.text("ab", min_size=1, max_size=9), min_size=1, max_size=4).map(tuple)


def found_in(text: str, stops: tuple[str, ...]) -> tuple[int, int] | None:
    """Where the first stop ends and how long it is, by trying every place."""
    for end in range(1, len(text) + 1):
        here = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if here:
            return end, max(here)
    return None


@settings(max_examples=500, deadline=None)
@given(text=TEXT, stops=STOPS, size=st.integers(1, 7))
def test_first_stop_is_found_in_pieces_of_any_size(
    text: str, stops: tuple[str, ...], size: int
) -> None:
    matcher = StopMatcher(stops)
    found = None
    for start in range(0, len(text), size):
        found = matcher.find(text[start : start + size])
        if found is not None:
            found = (start + found[0], found[1])
            break
    assert found == found_in(text, stops)


@settings(max_examples=300, deadline=None)
@given(text=TEXT, stops=STOPS)
def test_pending_characters_are_the_longest_end_with_which_a_stop_begins(
    text: str, stops: tuple[str, ...]
) -> None:
    matcher = StopMatcher(stops)
    if matcher.find(text) is None:
        ends = [size for size in range(len(text) + 1) if _begins(stops, text[len(text) - size :])]
        assert matcher.num_pending == max(ends)


def _begins(stops: tuple[str, ...], end: str) -> bool:
    return any(stop.startswith(end) and stop != end for stop in stops)
