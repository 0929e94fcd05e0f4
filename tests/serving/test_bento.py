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

from everloop.registry import Registry
from everloop.settings import Home
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


@pytest.mark.slow
def test_bento_is_built_and_answers(home, versions, tmp_path):
    """From an empty home: the model that travels in the Bento becomes the first champion."""
    other = type(home)(tmp_path / "builder").create()
    Registry(other).save(versions[0])
    env = os.environ | {"BENTOML_HOME": str(other.bentoml), "BENTOML_DO_NOT_TRACK": "True"}
    bentoml = [sys.executable, "-m", "bentoml"]
    built = subprocess.run(
        [*bentoml, "build", "--version", "test", "-o", "tag"],
        cwd=ROOT, env=env, capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    assert b"everloop:test" in built.stdout
    bento = other.bentoml / "bentos" / "everloop" / "test"
    files = {str(path.relative_to(bento)) for path in bento.rglob("*") if path.is_file()}
    assert "src/serving/chat_page/index.html" in files
    assert "src/feedback/store/migrations/env.py" in files
    assert not any("__pycache__" in name or "/training/" in name for name in files)
    dockerfile = (bento / "env" / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert "USER bentoml" in dockerfile
    assert "BENTOML_DO_NOT_TRACK" in dockerfile
    archive = tmp_path / "image.tar.gz"
    subprocess.run(
        [*bentoml, "export", "everloop:test", str(archive)],
        cwd=ROOT, env=env, capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    image = tmp_path / "image"
    with tarfile.open(archive) as packed:
        packed.extractall(image, filter="data")
    serve_and_ask(dockerfile, home, image)
    assert [version.tag for version in Registry(home).list()] == [Registry(other).list()[0].tag]


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
