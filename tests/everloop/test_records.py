"""Content hashes and Merkle roots identify rows and datasets."""

from everloop.records import DatasetRow, Message, content_hash, merkle_root

A, B, C = "11" * 32, "22" * 32, "33" * 32


def test_equal_content_has_an_equal_hash() -> None:
    turns = (Message(role="user", content="a"),)
    assert content_hash(None, turns) == content_hash(None, (Message(role="user", content="a"),))


def test_role_and_kind_change_the_hash() -> None:
    user = (Message(role="user", content="a"),)
    assistant = (Message(role="assistant", content="a"),)
    assert (
        len({content_hash("a", None), content_hash(None, user), content_hash(None, assistant)}) == 3
    )


def test_merkle_root_does_not_depend_on_order() -> None:
    assert merkle_root([A, B, C]) == merkle_root([C, A, B])


def test_merkle_root_changes_with_any_row() -> None:
    assert (
        len({merkle_root([A, B, C]), merkle_root([A, B]), merkle_root([A, B, B]), merkle_root([])})
        == 4
    )


def test_merkle_root_of_one_row_is_its_hash() -> None:
    assert merkle_root([A]) == A


def test_merkle_root_of_two_rows_is_the_hash_of_both() -> None:
    # sha256(0x11 * 32 + 0x22 * 32)
    assert merkle_root([B, A]) == "5189c77d29fe5d546a045ec46986852785fea5c13ac7da9c115ff5fb6edf817c"


USER, GOOD, BAD = (
    (Message(role=role, content=content),)
    for role, content in (("user", "2 + 2?"), ("assistant", "4"), ("assistant", "5"))
)


def row(**content: object) -> DatasetRow:
    return DatasetRow.model_validate({"id": "a", "split": "train", "sources": (), **content})


def test_kind_follows_from_what_is_set() -> None:
    assert row(text="a").kind == "text"
    assert row(messages=(*USER, *GOOD)).kind == "chat"
    assert row(messages=USER, chosen=GOOD, rejected=BAD).kind == "preference"
    assert row(messages=(*USER, *BAD), label=False).kind == "rated"


def test_hashes_of_texts_and_conversations_never_change() -> None:
    # sha256('["a", null]') and sha256('[null, [["user", "2 + 2?"]]]')
    assert content_hash("a", None).startswith("df14bf1df5b1")
    assert content_hash(None, USER).startswith("5a7f3fbaaff2")
    assert row(text="a").line == '{"id":"a","split":"train","sources":[],"text":"a"}'


def test_preferences_and_ratings_have_hashes_of_their_own() -> None:
    hashes = {
        content_hash(None, USER),
        content_hash(None, USER, chosen=GOOD, rejected=BAD),
        content_hash(None, USER, chosen=BAD, rejected=GOOD),
        content_hash(None, USER, label=True),
        content_hash(None, USER, label=False),
    }
    assert len(hashes) == 5
