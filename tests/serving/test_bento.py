"""The bentofile: what it names, and a Bento that is built and answers."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import psutil
import pytest
import yaml
from typer.testing import CliRunner

from everloop.cli import app
from everloop.cli_options import open_store
from everloop.errors import NotFoundError
from everloop.packaging import version_to_package
from everloop.registry import Registry
from everloop.settings import Home
from feedback.rollout import promote
from serving import launch
from tests.serving.conftest import make_client

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bentofile() -> dict:
    return yaml.safe_load((ROOT / "bentofile.yaml").read_text(encoding="utf-8"))


def name_of(requirement: str) -> str:
    for mark in "<>=!~[; ":
        requirement = requirement.partition(mark)[0]
    return requirement.lower().replace("_", "-")


def test_packages_are_the_base_dependencies(bentofile):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    base = {name_of(text) for text in project["dependencies"]} - {"bentoml"}
    assert {name_of(text) for text in bentofile["python"]["packages"]} == base


def test_packages_are_pinned_to_the_tested_versions(bentofile):
    tested = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower().replace("_", "-")
    for requirement in bentofile["python"]["packages"]:
        assert requirement.lower().replace("_", "-") in tested.splitlines()


def test_nothing_of_training_or_drift_goes_in(bentofile):
    names = {name_of(text) for text in bentofile["python"]["packages"]}
    assert not names & {"torch", "transformers", "evidently", "scikit-learn", "pandas"}
    assert not any(pattern.startswith(("training", "tests")) for pattern in bentofile["include"])
    assert bentofile["python"]["lock_packages"] is False


def test_without_a_champion_the_version_must_be_named(home):
    with open_store(home) as store, pytest.raises(NotFoundError, match="no champion to package"):
        version_to_package(home, store, None)


def test_the_bentofile_names_one_model_in_the_place_of_which_another_is_put():
    text = (ROOT / "bentofile.yaml").read_text(encoding="utf-8")
    assert text.count('"everloop:latest"') == 1


@pytest.mark.slow
def test_bento_is_built_and_answers(home, versions, tmp_path):
    """The champion travels in the Bento, and becomes the first champion of an empty home."""
    other = type(home)(tmp_path / "builder").create()
    older, newer = (Registry(other).save(folder) for folder in versions)
    with open_store(other) as store:
        store.record_model_version(older)
        promote(store, older.tag, "better than the newest")
    done = CliRunner().invoke(app, ["models", "package", "--home", str(other.root), "--json"])
    assert done.exit_code == 0, done.output
    assert f"packaging {older.tag} of {other.root}" in done.stderr
    built = json.loads(done.stdout)
    assert built["model_version"] == older.tag
    bento = other.bentoml / "bentos" / "everloop" / built["bento"].partition(":")[2]
    said = yaml.safe_load((bento / "bento.yaml").read_text(encoding="utf-8"))
    assert [model["tag"] for model in said["models"]] == [older.tag] != [newer.tag]
    files = {str(path.relative_to(bento)) for path in bento.rglob("*") if path.is_file()}
    assert "src/serving/chat_page/index.html" in files
    assert "src/feedback/store/migrations/env.py" in files
    assert not any("__pycache__" in name or "/training/" in name for name in files)
    dockerfile = (bento / "env" / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert "USER bentoml" in dockerfile
    assert "BENTOML_DO_NOT_TRACK" in dockerfile
    env = os.environ | {"BENTOML_HOME": str(other.bentoml), "BENTOML_DO_NOT_TRACK": "True"}
    archive = tmp_path / "image.tar.gz"
    subprocess.run(
        [sys.executable, "-m", "bentoml", "export", built["bento"], str(archive)],
        cwd=ROOT, env=env, capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    image = tmp_path / "image"
    with tarfile.open(archive) as packed:
        packed.extractall(image, filter="data")
    serve_and_ask(dockerfile, home, image)
    assert [version.tag for version in Registry(home).list()] == [older.tag]


def serve_and_ask(dockerfile: str, home: Home, image: Path) -> None:
    """Do what a container of the image does, on this machine's own loopback address."""
    lines = [line.partition(" ") for line in dockerfile.splitlines()]
    entrypoint = [text for word, _, text in lines if word == "ENTRYPOINT"][-1]
    workdir = [text for word, _, text in lines if word == "WORKDIR"][-1]
    assert workdir == "/home/bentoml/bento/src"
    _, *arguments = json.loads(entrypoint)
    port = launch.free_port()
    env = os.environ | {"BENTO_PATH": str(image), "EVERLOOP_HOME": str(home.root)}
    with (image / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments, "--host", "127.0.0.1", "--port", str(port)],
            cwd=image / "src", env=env, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        launch.wait_ready(url, 90, process)
        ports = [
            connection.laddr.port
            for one in psutil.Process(process.pid).children(recursive=True)
            for connection in one.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert ports == [port]
        with make_client(url, strict=True) as ai:
            answer = ai.chat.completions.create(
                model="everloop", messages=[{"role": "user", "content": "Hi"}], max_tokens=4
            )
            assert answer.usage.completion_tokens >= 1
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
