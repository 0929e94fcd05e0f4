import threading
from collections.abc import Callable

import pytest

from everloop.errors import NotFoundError
from everloop.registry import ModelVersion
from feedback.store import Store, open_store

Version = Callable[..., ModelVersion]


@pytest.fixture
def ready(store: Store, version: Version) -> Store:
    for name in ("v1", "v2", "v3"):
        store.record_model_version(version(name))
    return store


def test_no_champion_before_the_first_deployment(ready: Store) -> None:
    assert (ready.champion(), ready.pending_deployment()) == (None, None)


def test_deployment_waits_until_a_server_made_it_live(ready: Store) -> None:
    deployment = ready.deploy("everloop:v1", "promote", "the first")
    assert ready.champion() == ready.pending_deployment() == deployment
    ready.mark_deployment(deployment.id, "live")
    assert ready.pending_deployment() is None
    champion = ready.champion()
    assert champion is not None
    assert (champion.status, champion.model_version) == ("live", "everloop:v1")


def test_deployment_names_the_version_that_it_replaces(ready: Store) -> None:
    first = ready.deploy("everloop:v1", "promote", "the first")
    ready.mark_deployment(first.id, "live")
    assert ready.deploy("everloop:v2", "promote", "better").previous == "everloop:v1"


def test_failed_deployment_leaves_the_champion(ready: Store) -> None:
    first = ready.deploy("everloop:v1", "promote", "the first")
    ready.mark_deployment(first.id, "live")
    second = ready.deploy("everloop:v2", "promote", "better")
    ready.mark_deployment(second.id, "failed", "golden.json differs")
    champion = ready.champion()
    assert champion is not None
    assert champion.model_version == "everloop:v1"
    assert ready.deployments()[0].detail == "golden.json differs"


def test_newer_deployment_supersedes_one_that_waits(ready: Store) -> None:
    first = ready.deploy("everloop:v1", "promote", "the first")
    second = ready.deploy("everloop:v2", "promote", "better")
    ready.mark_deployment(first.id, "live")  # a server that was slow
    assert [row.status for row in ready.deployments()] == ["pending", "failed"]
    assert ready.deployments()[1].detail == "superseded by everloop:v2 before it was live"
    assert second.previous is None


def test_unknown_version_cannot_be_deployed(ready: Store) -> None:
    with pytest.raises(NotFoundError, match="everloop:v9 cannot be deployed"):
        ready.deploy("everloop:v9", "promote", "why not")
    assert ready.deployments() == []


def test_unknown_deployment_cannot_be_marked(ready: Store) -> None:
    with pytest.raises(NotFoundError, match="no deployment 7"):
        ready.mark_deployment(7, "live")


def test_another_process_sees_the_deployment(url: str, ready: Store) -> None:
    server = open_store(url)
    assert server.pending_deployment() is None
    deployment = ready.deploy("everloop:v1", "promote", "the first")
    assert server.pending_deployment() == deployment
    server.close()


def test_deployments_at_the_same_time_leave_one_that_waits(ready: Store) -> None:
    threads = [
        threading.Thread(target=ready.deploy, args=(f"everloop:v{1 + n % 3}", "promote", "race"))
        for n in range(9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row.status for row in ready.deployments()] == ["pending", *["failed"] * 8]
