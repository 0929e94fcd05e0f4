"""What every test gets: a private home folder, and none of the developer's settings."""

import getpass
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from everloop.settings import Home

# Telemetry off and no model hub, before any library reads them.
os.environ.update(
    BENTOML_DO_NOT_TRACK="True",
    DO_NOT_TRACK="1",
    HF_HUB_OFFLINE="1",
    OMP_WAIT_POLICY="passive",
    TOKENIZERS_PARALLELISM="false",
    # Apart from the developer's; kept between runs, so that the machine is measured once.
    EVERLOOP_CACHE_FOLDER=str(Path(tempfile.gettempdir()) / f"everloop-tests-{getpass.getuser()}"),
)
KEPT = {"EVERLOOP_CACHE_FOLDER"}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if (name.startswith("EVERLOOP_") and name not in KEPT) or name == "BENTOML_HOME":
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def clean_logging() -> Iterator[None]:
    """Take back what a command run inside the test did to the root logger.

    Its handler writes to a stream that pytest closes, and its level would reach later tests.
    """
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").create()
