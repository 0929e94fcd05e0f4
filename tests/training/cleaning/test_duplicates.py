import random
from collections.abc import Iterable
from pathlib import Path

from datatrove.data import Document

from training.cleaning.config import DuplicatesConfig
from training.cleaning.duplicates import Candidates, Duplicate, FindDuplicates, read_duplicates
from training.cleaning.signatures import Signatures, minhash_config

WORDS = [f"{a}{b}{c}{d}" for a in "bdfgklmn" for b in "aeiou" for c in "bdfg" for d in "aeiou"]


def text(seed: int, length: int = 120) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def edited(original: str, share: float, seed: int = 0) -> str:
    """Every word is replaced with this probability."""
    chance = random.Random(seed)
    return " ".join(
        chance.choice(WORDS) if chance.random() < share else word for word in original.split()
    )


def jaccard(a: str, b: str, n: int = 2) -> float:
    """The definition, which the signatures estimate."""
    one, two = (
        {tuple(words[at : at + n]) for at in range(len(words) - n + 1)}
        for words in (a.split(), b.split())
    )
    return len(one & two) / len(one | two)


def find(
    folder: Path, *tasks: Iterable[str | Document], **settings: object
) -> list[dict[int, Duplicate]]:
    config = DuplicatesConfig.model_validate(settings)
    for rank, texts in enumerate(tasks):
        documents = [
            item if isinstance(item, Document) else Document(text=item, id="") for item in texts
        ]
        Signatures(folder / "signatures", config).run(iter(documents), rank, len(tasks))
    minhash = minhash_config(config)
    signatures, pairs = folder / "signatures", folder / "pairs"
    for rank in range(2):
        Candidates(str(signatures), str(pairs), config=minhash).run(None, rank, 2)
    FindDuplicates(signatures, pairs, folder / "found", config).run()
    return [read_duplicates(folder / "found", rank) for rank in range(len(tasks))]


def test_duplicates_are_found_across_tasks_and_the_first_stays(tmp_path: Path) -> None:
    original = text(1)
    first, second = find(
        tmp_path, [text(0), original], [edited(original, 0.1), text(2), f" {original}\n"]
    )
    assert first == {}
    assert second.keys() == {0, 2}
    assert (second[0].original, second[0].is_exact) == ((0, 1), False)
    assert abs(second[0].similarity - jaccard(original, edited(original, 0.1))) < 0.12
    assert second[2] == Duplicate(index=2, original=(0, 1), similarity=1.0, is_exact=True)


def test_duplicates_are_found_with_every_seventh_word_changed(tmp_path: Path) -> None:
    originals = [text(seed) for seed in range(100)]
    copies = [edited(original, 0.15, seed) for seed, original in enumerate(originals)]
    (found,) = find(tmp_path, [*originals, *copies])
    assert len([index for index in found if index >= 100]) >= 95
    assert [index for index in found if index < 100] == []


def test_a_chain_of_likenesses_does_not_drop_its_other_end(tmp_path: Path) -> None:
    left, right = text(1, 60), text(2, 60)
    middle = f"{left} {right}"
    other = f"{right} {text(3, 60)}"
    assert jaccard(left, other) == 0
    # left ~ middle and middle ~ other, so middle goes for left, and other has nobody to go for.
    (found,) = find(tmp_path, [left, middle, other], similarity=0.3)
    assert {index: duplicate.original for index, duplicate in found.items()} == {1: (0, 0)}


def test_conversations_are_compared_exactly(tmp_path: Path) -> None:
    def chat(answer: str) -> Document:
        return Document(text=text(1) + answer, id="", metadata={"messages": []})

    (found,) = find(tmp_path, [chat("a"), chat("b"), chat("a")])
    assert found == {2: Duplicate(index=2, original=(0, 0), similarity=1.0, is_exact=True)}


def test_another_rating_of_the_same_answer_stays(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]

    def rated(label: bool | None) -> Document:
        label_field = {} if label is None else {"label": label}
        return Document(text="a b", id="", metadata={"messages": turns, **label_field})

    pair = Document(
        text="a b", id="", metadata={"messages": turns[:1], "chosen": turns[1:], "rejected": []}
    )
    (found,) = find(tmp_path, [rated(True), rated(False), rated(None), pair, rated(False)])
    assert {index: duplicate.original for index, duplicate in found.items()} == {4: (0, 1)}


def test_without_near_duplicates_only_exact_ones_go(tmp_path: Path) -> None:
    (found,) = find(tmp_path, [text(1), edited(text(1), 0.02), text(1)], near=False)
    assert found.keys() == {2}


def test_short_texts_are_whole_shingles(tmp_path: Path) -> None:
    (found,) = find(tmp_path, ["one", "two", "one", ""])
    assert found.keys() == {2}


def test_no_documents_give_no_duplicates(tmp_path: Path) -> None:
    assert find(tmp_path, [], [text(1)]) == [{}, {}]
