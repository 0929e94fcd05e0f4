from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from everloop.process_status import RESTARTS, ROUNDS, write_status
from monitoring.status_metrics import StatusCollector


def scrape(folder: Path) -> list[str]:
    registry = CollectorRegistry()
    registry.register(StatusCollector(folder))
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_collector_shows_restarts_and_failed_rounds(tmp_path: Path) -> None:
    restarts = {name: {"restarts": number} for number, name in enumerate(("server", "worker"))}
    write_status(tmp_path / RESTARTS, restarts)
    write_status(tmp_path / ROUNDS, {"failed": 3, "failed_in_a_row": 1})
    assert scrape(tmp_path) == [
        'llm_process_restarts_total{process="server"} 0.0',
        'llm_process_restarts_total{process="worker"} 1.0',
        "llm_loop_failed_rounds_total 3.0",
    ]


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[1]", b'{"server": 5}', b'{"server": {"restarts": "many"}}']
)
def test_collector_shows_nothing_of_a_damaged_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RESTARTS).write_bytes(content)
    (tmp_path / ROUNDS).write_bytes(content)
    assert scrape(tmp_path) == ["llm_loop_failed_rounds_total 0.0"]
