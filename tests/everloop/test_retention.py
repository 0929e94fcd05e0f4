"""What a home forgets, and what it keeps whatever the numbers say."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from everloop.cli import app
from everloop.errors import ConfigError, NotFoundError
from everloop.manifest import read_manifest, sha256_file
from everloop.registry import Registry
from everloop.retention import Kept, RetentionConfig, prune, prune_after_round, survey
from everloop.settings import Home, RunFile
from feedback.rollout import promote, rollback
from feedback.store import Decision, Store, open_store
from tests.everloop.test_registry import version_folder
from training.checkpoint import recorded_sha256, write_sidecar

FEW = RetentionConfig(versions=1, decisions=0, checkpoints=1, runs=2)


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    opened = open_store(home.database_url)
    yield opened
    opened.close()


def add_version(home: Home, store: Store, name: str, checkpoint: str = "00") -> str:
    folder = version_folder(home.root / f"made-{name}", name)
    manifest = read_manifest(folder)
    lineage = manifest.lineage.model_copy(update={"checkpoint_sha256": checkpoint})
    changed = manifest.model_copy(update={"lineage": lineage})
    (folder / "manifest.json").write_text(changed.model_dump_json(), encoding="utf-8")
    version = Registry(home).save(folder)
    store.record_model_version(version)
    return version.tag


def add_run(home: Home, name: str, begun: int) -> str:
    """A finished run; gives the SHA-256 of its weights."""
    checkpoint = home.runs / name / "checkpoint"
    checkpoint.mkdir(parents=True)
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        (checkpoint / file).write_text(f"{file} of {name}", encoding="utf-8")
    write_sidecar(checkpoint, datasets=(), config={}, seed=0, parent=None, metrics={})
    (home.runs / name / "report.html").write_text("a report", encoding="utf-8")
    (home.runs / name / "run.json").write_text("{}", encoding="utf-8")
    os.utime(home.runs / name / "run.json", (begun, begun))
    return sha256_file(checkpoint / "model.safetensors")


def going(found: list[Kept], kind: str) -> list[str]:
    return [one.name for one in found if one.because is None and one.kind == kind]


def test_champion_and_predecessor_stay_however_old(home: Home, store: Store) -> None:
    tags = [add_version(home, store, f"v{number}") for number in range(6)]
    for tag in tags[:3]:
        store.mark_deployment(promote(store, tag, "better").id, "live")

    found = survey(home, FEW, store)

    assert going(found, "version") == [tags[0], tags[3], tags[4]]
    assert {one.name: one.because for one in found if one.because} == {
        tags[1]: "a rollback returns to it",
        tags[2]: "champion",
        tags[5]: "one of the newest 1",
    }


def test_a_version_that_answers_until_the_swap_stays(home: Home, store: Store) -> None:
    tags = [add_version(home, store, f"v{number}") for number in range(5)]
    for tag in tags[:3]:
        store.mark_deployment(promote(store, tag, "better").id, "live")
    rollback(store, "worse")  # pending: the third still answers

    assert going(survey(home, FEW, store), "version") == [tags[3]]


def test_versions_of_the_newest_decisions_stay(home: Home, store: Store) -> None:
    tags = [add_version(home, store, f"v{number}") for number in range(5)]
    for number, tag in enumerate(tags[:3]):
        store.record_decision(
            Decision(kind="gate", verdict="reject", reasons=("worse",), candidate=tag,
                     created_at=float(number))
        )  # fmt: skip
    for number in range(50):  # looks at the feedback name the champion and are no decision on it
        store.record_decision(
            Decision(kind="trigger", verdict="wait", reasons=("early",), champion=tags[0],
                     created_at=100.0 + number)
        )  # fmt: skip
    config = FEW.model_copy(update={"decisions": 2})

    assert going(survey(home, config, store), "version") == [tags[0], tags[3]]


def test_pinned_version_and_run_stay(home: Home, store: Store) -> None:
    tags = [add_version(home, store, f"v{number}") for number in range(3)]
    for number in range(4):
        add_run(home, f"run-{number}", begun=number)
    config = FEW.model_copy(update={"pinned": (tags[0], "run-0")})

    found = survey(home, config, store)

    assert going(found, "version") == [tags[1]]
    assert going(found, "run") == ["run-1"]
    assert going(found, "checkpoint") == ["run-2"]


def test_unknown_pinned_name_is_refused_and_nothing_goes(home: Home, store: Store) -> None:
    tags = [add_version(home, store, f"v{number}") for number in range(3)]
    config = FEW.model_copy(update={"pinned": ("everloop:v9",)})
    with pytest.raises(ConfigError, match="everloop:v9 is no model version and no run"):
        prune(home, config, store)
    assert [version.tag for version in Registry(home).list()] == tags


def test_checkpoint_of_a_version_that_stays_stays(home: Home, store: Store) -> None:
    shas = [add_run(home, f"run-{number}", begun=number) for number in range(5)]
    champion = add_version(home, store, "v0", shas[0])
    add_version(home, store, "v1", shas[1])
    add_version(home, store, "v2", shas[4])
    promote(store, champion, "the first")

    prune(home, FEW, store)

    kept = {run.name for run in home.runs.iterdir() if (run / "checkpoint").is_dir()}
    assert kept == {"run-0", "run-4"}
    # Of the newest two runs the report stays; older ones are gone whole.
    assert {run.name for run in home.runs.iterdir()} == {"run-0", "run-3", "run-4"}
    assert (home.runs / "run-3" / "report.html").is_file()


def test_pruned_checkpoint_does_not_make_its_run_newer(home: Home, store: Store) -> None:
    for number in range(4):
        add_run(home, f"run-{number}", begun=number)
    prune(home, FEW, store)
    assert prune(home, FEW, store) == []
    assert {run.name for run in home.runs.iterdir()} == {"run-2", "run-3"}


def test_a_run_that_trains_now_stays(home: Home, store: Store) -> None:
    for number in range(4):
        add_run(home, f"run-{number}", begun=number)
    with FileLock(home.runs / "run-0" / "run.lock"):
        found = survey(home, FEW, store)
        assert "run-0" not in {one.name for one in prune(home, FEW, store)}
    assert going(found, "run") == ["run-1"]
    assert (home.runs / "run-0" / "checkpoint").is_dir()


def test_link_to_an_imported_folder_goes_and_the_folder_stays(
    home: Home, store: Store, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        (theirs / name).write_bytes(b"theirs")
    (home.runs / "imported").mkdir(parents=True)
    (home.runs / "imported" / "checkpoint").symlink_to(theirs, True)
    assert recorded_sha256(home.runs / "imported" / "checkpoint") is not None
    for number in range(2):
        add_run(home, f"run-{number}", begun=2**33 + number)

    removed = prune(home, FEW, store)

    assert [(one.kind, one.name) for one in removed] == [
        ("run", "imported"),
        ("checkpoint", "run-0"),
    ]
    assert removed[0].size_bytes < 1000
    assert len(list(theirs.iterdir())) == 3


def test_command_lists_by_default_and_removes_when_told(home: Home, store: Store) -> None:
    tags = [add_version(home, store, f"v{number}") for number in range(3)]
    command = ["models", "prune", "--home", str(home.root), "--set", "retention.versions=1"]

    listed = CliRunner().invoke(app, [*command, "--json"])
    assert [(one["name"], one["action"]) for one in json.loads(listed.stdout)] == [
        (tags[0], "would go"), (tags[1], "would go"), (tags[2], "stays")
    ]  # fmt: skip
    assert len(Registry(home).list()) == 3

    done = CliRunner().invoke(app, [*command, "--delete"])
    assert done.exit_code == 0
    assert done.stdout.count("removed") == 2
    assert [version.tag for version in Registry(home).list()] == [tags[2]]
    assert store.model_version(tags[0]).tag == tags[0]  # an old answer is still traced


def test_history_shows_refused_rounds_between_the_champions(home: Home, store: Store) -> None:
    tags = [add_version(home, store, f"v{number}") for number in range(3)]
    promote(store, tags[0], "the first")
    for tag, verdict in zip(tags, ("promote", "reject", "undecided"), strict=True):
        reasons = (f"{verdict} it", "as the numbers say")
        store.record_decision(
            Decision(kind="gate", verdict=verdict, reasons=reasons, candidate=tag, champion=tags[0])
        )
    store.record_decision(Decision(kind="trigger", verdict="wait", reasons=("too few",)))
    command = ["models", "history", "--home", str(home.root)]

    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)

    assert [(one["action"], one["model_version"], one["status"]) for one in found] == [
        ("round", tags[2], "undecided"),
        ("round", tags[1], "reject"),
        ("promote", tags[0], "pending"),
    ]
    assert found[1]["reason"] == "reject it; as the numbers say"
    shown = CliRunner().invoke(app, command).stdout
    assert "undecided it; as the numbers say" in shown


def test_rollback_to_a_pruned_version_is_refused(home: Home, store: Store) -> None:
    tags = [add_version(home, store, f"v{number}") for number in range(2)]
    for tag in tags:
        store.mark_deployment(promote(store, tag, "better").id, "live")
    Registry(home).delete(tags[0])
    command = ["models", "rollback", "--reason", "worse", "--home", str(home.root)]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, NotFoundError)
    assert store.deployments()[0].model_version == tags[1]


def test_rounds_prune_only_when_asked_and_never_fail(
    home: Home, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        add_version(home, store, f"v{number}")
    prune_after_round(home, RunFile("test", {"retention": {"versions": 1}}), store)
    assert len(Registry(home).list()) == 3
    asked = {"versions": 1, "after_round": True}
    prune_after_round(home, RunFile("test", {"retention": asked | {"pinned": ["x:y"]}}), store)
    assert "retention failed: retention.pinned: x:y" in caplog.text
    prune_after_round(home, RunFile("test", {"retention": asked}), store)
    assert len(Registry(home).list()) == 1
