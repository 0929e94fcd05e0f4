from collections.abc import Callable

import pytest

from everloop.errors import NotFoundError
from everloop.registry import ModelVersion
from feedback.store import Store

Version = Callable[..., ModelVersion]


def test_version_comes_back_as_it_was(store: Store, version: Version) -> None:
    store.record_model_version(version("v1"))
    assert store.model_version("everloop:v1") == version("v1")


def test_recording_again_changes_nothing(store: Store, version: Version) -> None:
    store.record_model_version(version("v1"))
    store.record_model_version(version("v1", parent="everloop:v0"))
    assert store.model_versions() == [version("v1")]


def test_unknown_version_is_named_with_those_known(store: Store, version: Version) -> None:
    with pytest.raises(NotFoundError, match=r"no model version everloop:v9 .* known: none yet"):
        store.model_version("everloop:v9")
    store.record_model_version(version("v1"))
    with pytest.raises(NotFoundError, match="known: everloop:v1"):
        store.model_version("everloop:v9")


def test_ancestors_go_back_to_the_first(store: Store, version: Version) -> None:
    store.record_model_version(version("v1"))
    store.record_model_version(version("v2", parent="everloop:v1"))
    store.record_model_version(version("v3", parent="everloop:v2"))
    assert store.ancestors("everloop:v3") == ("everloop:v2", "everloop:v1")
    assert store.ancestors("everloop:v1") == ()


def test_ancestors_end_where_the_line_turns_back(store: Store, version: Version) -> None:
    store.record_model_version(version("v1", parent="everloop:v2"))
    store.record_model_version(version("v2", parent="everloop:v1"))
    assert store.ancestors("everloop:v1") == ("everloop:v2", "everloop:v1")
