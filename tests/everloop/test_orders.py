import json

import pytest

from everloop.orders import orders


def test_orders_are_different_and_the_seed_decides() -> None:
    made = orders(300, 7)
    assert len({spoken for spoken, _ in made}) == 300
    assert orders(300, 7) == made != orders(300, 8)


@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_wanted_stands_in_what_is_said(seed: int) -> None:
    for spoken, wanted in orders(100, seed):
        till = json.loads(wanted)
        assert list(till) == ["name", "to_go", "items"]
        assert till["name"] in spoken
        for good in till["items"]:
            stem = good[:-1] if good.endswith("y") else good
            assert stem in spoken.lower()
        words = ("to go", "take away", "takeaway", "for the road")
        assert till["to_go"] == any(word in spoken.lower() for word in words)
