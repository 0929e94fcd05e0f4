"""References are followed to where the grammar's library follows them."""

from typing import Any

import pytest

from everloop.errors import DataError
from serving.engine.json_references import References, shown

SCHEMA: dict[str, Any] = {
    "$id": "https://a.example/b/c.json",
    "$defs": {"x y": {"$anchor": "here", "type": "null"}, "a/b~": True, "": {"": 7}},
    "prefixItems": [{"const": 1}, {"const": 2}],
}


@pytest.mark.parametrize(
    ("reference", "target"),
    [
        ("#", SCHEMA),
        ("", SCHEMA),
        ("#/$defs/x%20y/type", "null"),
        ("#/%24defs/x y/type", "null"),
        ("#here", {"$anchor": "here", "type": "null"}),
        ("#/$defs/a~1b~0", True),
        ("#/$defs//", 7),
        ("#/prefixItems/1/const", 2),
        ("https://a.example/b/c.json#/prefixItems/0/const", 1),
        ("c.json#here", {"$anchor": "here", "type": "null"}),
        ("../b/c.json#/prefixItems/0/const", 1),
    ],
)
def test_reference_leads_to_its_target(reference: str, target: Any) -> None:
    assert References(SCHEMA).target(reference) == target


@pytest.mark.parametrize("reference", ["d.json", "https://other.example/", "http://[", "urn:x:y"])
def test_reference_to_another_schema_is_refused(reference: str) -> None:
    with pytest.raises(DataError, match="refers to what is not in the schema"):
        References(SCHEMA).target(reference)


@pytest.mark.parametrize(
    "reference", ["#/nothing", "#/prefixItems/9", "#/prefixItems/x", "#nowhere", "#/$defs/a/b"]
)
def test_reference_to_nothing_is_refused(reference: str) -> None:
    with pytest.raises(DataError, match="refers to nothing"):
        References(SCHEMA).target(reference)


def test_reference_in_an_old_draft_beside_an_address_inside_is_refused() -> None:
    schema = {"items": {"id": "x"}, "properties": {"a": {"$ref": "#/items"}}}
    assert References(schema).target("#/items") == {"id": "x"}
    old = schema | {"$schema": "http://json-schema.org/draft-04/schema#"}
    with pytest.raises(DataError, match="inside the schema"):
        References(old).target("#/items")


def test_reference_beside_an_address_inside_is_refused() -> None:
    schema = {"items": {"$id": "x"}, "properties": {"a": {"$ref": "#/items"}}}
    with pytest.raises(DataError, match=r"'#/items' stands beside an \"\$id\" inside"):
        References(schema).target("#/items")


@pytest.mark.parametrize("schema", [True, [], {"$id": 5}, {"$anchor": []}])
def test_any_json_can_be_asked(schema: Any) -> None:
    assert References(schema).target("#") == schema


def test_long_reference_is_cut_where_it_is_shown() -> None:
    assert len(shown("#/" + "x" * 900)) == 62
