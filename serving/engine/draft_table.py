"""What a sequence said before, looked up by its last tokens: drafts for what it will say next.

Answers repeat what they were given: names, code, quotations, their own lists. Finding a draft costs
a look into a table, whatever the length of the sequence.

Source: Saxena, Prompt Lookup Decoding, 2023.
"""

_CONTEXT = 3  # tokens that must agree
_BITS = 21  # of a token id: no vocabulary has two million tokens
_MASK = (1 << _BITS * _CONTEXT) - 1
_FIRST_HIT_RATE = 0.5
_WEIGHT = 0.15  # of the newest token in the hit rate


class DraftTable:
    """Where each run of three tokens was last followed by which token, in one sequence.

    Attributes:
        hit_rate: how often it foretold the next token of the answer, where it foretold any; the
            newest count most.

    Example:
        After 1 2 3 4 5 1 2 3 it foretells 4 5 1.
    """

    __slots__ = ("_key", "_places", "_size", "hit_rate")

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._key = 0  # the last tokens, packed
        self._size = 0  # tokens that were read
        self.hit_rate = _FIRST_HIT_RATE

    def read(self, token_ids: list[int], num_prompt_tokens: int) -> None:
        """Take the tokens that the sequence got since the last call.

        Args:
            token_ids: all of the sequence.
            num_prompt_tokens: where its answer begins; only there the table is put to the test.
        """
        places, key = self._places, self._key
        for place in range(self._size, len(token_ids)):
            token = token_ids[place]
            if place >= _CONTEXT:
                if place >= num_prompt_tokens:
                    known = places.get(key)
                    if known is not None:
                        self.hit_rate += _WEIGHT * ((token_ids[known] == token) - self.hit_rate)
                places[key] = place
            key = (key << _BITS | token) & _MASK
        self._key, self._size = key, len(token_ids)

    @property
    def has_draft(self) -> bool:
        """Whether it foretells what follows the last token that was read."""
        return self._size >= _CONTEXT and self._key in self._places

    def draft(self, token_ids: list[int], count: int) -> list[int]:
        """Foretell so many tokens behind the last that was read; none if it cannot."""
        if not self.has_draft:
            return []
        place = self._places[self._key]
        draft = token_ids[place : place + count]
        while draft and len(draft) < count:  # a text that repeats itself goes on repeating
            draft.append(draft[len(draft) - (self._size - place)])
        return draft
