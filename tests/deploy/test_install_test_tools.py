import os
import stat
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "install-test-tools.sh"
PROGRAMS = ("promtool", "chromium", "chromedriver", "qemu-x86_64")


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """The only folder on the script's PATH: `id` says an ordinary user, and there is no apt-get."""
    folder = tmp_path / "bin"
    folder.mkdir()
    add(folder, "id", "#!/bin/sh\necho 1000\n")
    return folder


def add(folder: Path, name: str, text: str = "#!/bin/sh\n") -> None:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(SCRIPT)],
        env={"PATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )


def test_says_nothing_where_everything_is_there(bin_folder: Path) -> None:
    for name in PROGRAMS:
        add(bin_folder, name)
    done = run(bin_folder)
    assert (done.stdout, done.stderr) == ("", "")


def test_says_in_one_line_what_is_skipped_without_root(bin_folder: Path) -> None:
    add(bin_folder, "promtool")
    done = run(bin_folder)
    assert done.stdout == ""
    assert done.stderr == (
        "test tools: tests will be skipped for want of chromium (pages in a browser); "
        "chromedriver (pages in a browser); qemu-x86_64 (other processors); "
        "install the Debian packages chromium chromium-driver qemu-user\n"
    )


def test_installs_nothing_as_root_without_apt_get(bin_folder: Path) -> None:
    add(bin_folder, "id", "#!/bin/sh\necho 0\n")
    assert "install the Debian packages prometheus chromium" in run(bin_folder).stderr


def test_script_is_executable() -> None:
    assert os.access(SCRIPT, os.X_OK)
