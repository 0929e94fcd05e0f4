"""A Bento of the service with one model version in it, which is named or the champion. Wiring."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from everloop.errors import ConfigError, EverloopError, NotFoundError
from everloop.manifest import verify
from everloop.registry import ModelVersion, Registry
from everloop.settings import Home
from feedback.store.store import Store

_CHECKOUT = Path(__file__).parents[1]
_BENTOFILE = "bentofile.yaml"
_MODEL = '"everloop:latest"'  # as the file names the model of whoever runs bentoml by hand


def version_to_package(home: Home, store: Store, tag: str | None) -> ModelVersion:
    """The version that is named, else the champion of the home; its hashes are checked.

    Raises:
        NotFoundError: there is no such version, or no champion and no name.
        ArtifactError: a file of it is missing or was changed.
    """
    if tag is None:
        champion = store.champion()
        if champion is None:
            known = ", ".join(version.tag for version in Registry(home).list()) or "none yet"
            raise NotFoundError(
                f"{home.root} has no champion to package. Name a version; known: {known}."
            )
        tag = champion.model_version
    version = Registry(home).get(tag)
    verify(version.path)
    return version


def build_bento(home: Home, version: ModelVersion) -> str:
    """Build the Bento of bentofile.yaml with this version in it; give the Bento's tag.

    Raises:
        ConfigError: this is no checkout with its bentofile.
        EverloopError: BentoML cannot build it.
    """
    try:
        text = (_CHECKOUT / _BENTOFILE).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{_CHECKOUT} holds no {_BENTOFILE}. Build the Bento from a checkout of Everloop."
        ) from error
    if text.count(_MODEL) != 1:
        raise ConfigError(f"{_CHECKOUT / _BENTOFILE} must name the model {_MODEL} once.")
    environment = {
        "BENTOML_HOME": str(home.bentoml.resolve()),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    with tempfile.TemporaryDirectory(prefix="everloop-bento-") as folder:
        file = Path(folder) / _BENTOFILE
        file.write_text(text.replace(_MODEL, f'"{version.tag}"'), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "bentoml", "build", "-f", str(file), "-o", "tag", "."],
            cwd=_CHECKOUT,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )
    tags = [line for line in done.stdout.split("\n") if line.startswith("__tag__:")]
    if done.returncode or not tags:
        reason = " ".join((done.stderr or done.stdout).split())[-500:]
        raise EverloopError(f"the Bento of {version.tag} cannot be built: {reason}")
    return tags[-1].removeprefix("__tag__:").strip()
