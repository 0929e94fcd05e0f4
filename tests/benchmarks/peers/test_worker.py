import sys
from pathlib import Path

import pytest

from benchmarks.peers.worker import WorkerProcess

ECHO = """
import sys
print('"ready"', flush=True)
for line in sys.stdin:
    if "stop" in line:
        sys.exit("no more")
    print(line.strip(), flush=True)
    sys.stdout.write("bytes")
    sys.stdout.flush()
"""


@pytest.fixture
def worker(tmp_path: Path) -> WorkerProcess:
    (tmp_path / "echo_worker.py").write_text(ECHO, encoding="utf-8")
    return WorkerProcess(
        Path(sys.executable), "echo_worker", variables={"PYTHONPATH": str(tmp_path)}
    )


def test_answers_come_as_json_and_bytes_after_them(worker: WorkerProcess) -> None:
    with worker:
        assert worker.ask(task="a", tokens=[1, 2]) == {"task": "a", "tokens": [1, 2]}
        assert worker.read(5) == b"bytes"


def test_a_process_that_ends_says_why(worker: WorkerProcess) -> None:
    with worker, pytest.raises(RuntimeError, match=r"echo_worker ended with exit code 1: no more"):
        worker.ask(task="stop")


def test_a_process_that_cannot_load_says_why() -> None:
    worker = WorkerProcess(Path(sys.executable), "no_such_module")
    with pytest.raises(RuntimeError, match="No module named no_such_module"):
        worker.__enter__()
