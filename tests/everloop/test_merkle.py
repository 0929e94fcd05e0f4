"""The streamed root is the root of the list, whatever the number of leaves and of runs."""

import hashlib

import pytest

from everloop.merkle import MerkleTree, fold
from everloop.records import merkle_root


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 7, 8, 9, 31, 100])
def test_root_is_that_of_the_list(count: int) -> None:
    leaves = [hashlib.sha256(bytes([number])).digest() for number in range(count)]
    with MerkleTree(leaves_in_memory=7) as tree:
        for leaf in leaves:
            tree.add(leaf)
        assert tree.count == count
        assert tree.root() == merkle_root([leaf.hex() for leaf in leaves])


def test_fold_of_three_leaves() -> None:
    one, two, three = (bytes([number]) * 32 for number in (1, 2, 3))
    pair = hashlib.sha256(one + two).digest()
    assert fold([one, two, three]) == hashlib.sha256(pair + three).digest()


def test_leaves_with_zero_bytes_are_whole() -> None:
    leaves = [bytes(32), bytes(31) + b"\1", b"\1" + bytes(31)]
    with MerkleTree(leaves_in_memory=1) as tree:
        for leaf in leaves:
            tree.add(leaf)
        assert tree.root() == merkle_root([leaf.hex() for leaf in leaves])
