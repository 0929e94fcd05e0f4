"""The processes that run on emulated processors: two at a time, once for all tests."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.planted_version import depend_on_company, expect_another_token
from tests.programs import program
from tests.tiny_model import make_tiny_version

ROOT = Path(__file__).parents[2]
PRECISIONS = (("fp32", "fp32"), ("int8", "fp32"), ("int8", "int8"), ("int4", "int8"))
PROCESSORS = ("Haswell", "Nehalem")  # AVX2 without AVX-512; neither
_LIMIT_SECONDS = 1800  # of one process; a busy machine emulates slowly


class Versions(NamedTuple):
    """What this machine exported, by precision and cache or by the planted fault."""

    checkpoint: Path
    folders: dict[str, Path]


@pytest.fixture(scope="session")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Versions:
    """Tiny models in every precision, and the fp32 one with a fault planted."""
    base = tmp_path_factory.mktemp("versions")
    folders = {
        f"{precision}-{cache}": make_tiny_version(
            base / f"{precision}-{cache}", precision=precision, cache=cache
        )
        for precision, cache in PRECISIONS
    }
    for name, plant in (("company", depend_on_company), ("golden", expect_another_token)):
        folders[name] = shutil.copytree(folders["fp32-fp32"], base / name)
        plant(folders[name])
    return Versions(next(base.glob("fp32-fp32/checkpoint-*")), folders)


@pytest.fixture(scope="session")
def report(
    versions: Versions, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], dict[str, Any]]:
    """Give what a process printed, by processor and name; all are started at the first request."""
    qemu = program("qemu-x86_64")
    if platform.machine() != "x86_64":
        pytest.skip("the wheels of this environment are not x86-64 ones")
    cache = tmp_path_factory.mktemp("cache")

    def run(processor: str, name: str, arguments: list[Path]) -> dict[str, Any]:
        done = subprocess.run(
            [
                *(qemu, "-cpu", processor, sys.executable),
                *("-m", f"tests.processors.{name}_process", *map(str, arguments)),
            ],
            cwd=ROOT,
            env=os.environ | {"EVERLOOP_CACHE_FOLDER": str(cache), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=_LIMIT_SECONDS,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    graph = versions.folders["fp32-fp32"] / "model.onnx"
    work: dict[tuple[str, str], list[Path]] = {
        **{(one, "training"): [versions.checkpoint, graph] for one in PROCESSORS},
        **{(one, "engine"): list(versions.folders.values()) for one in PROCESSORS},
        ("Nehalem", "import"): [],
    }
    with ThreadPoolExecutor(2) as pool:
        results: dict[tuple[str, str], Future[dict[str, Any]]] = {
            key: pool.submit(run, *key, arguments) for key, arguments in work.items()
        }
    return lambda processor, name: results[processor, name].result()
