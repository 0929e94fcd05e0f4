"""Programs from outside Python that some tests drive."""

import os
import shutil

import pytest


def program(name: str) -> str:
    """Find a program; without it skip the test, but fail in CI, where it must be installed."""
    path = shutil.which(name)
    if path is None and os.environ.get("CI") == "true":
        pytest.fail(f"{name} is missing in CI: run scripts/install-test-tools.sh first")
    if path is None:
        pytest.skip(f"{name} is not installed: run scripts/install-test-tools.sh")
    return path
