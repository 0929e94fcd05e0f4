import json
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from monitoring.training_metrics import TrainingCollector


def _status(runs: Path, name: str, **values: object) -> None:
    folder = runs / name
    folder.mkdir(parents=True)
    status = {"run": name, "status": "running", "step": 7, "updated_at": 1000.0, **values}
    (folder / "status.json").write_text(json.dumps(status), encoding="utf-8")


def _scrape(runs: Path, now: float = 1001.0) -> list[str]:
    registry = CollectorRegistry()
    registry.register(TrainingCollector(runs, clock=lambda: now))
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_collector_shows_what_a_run_wrote(tmp_path: Path) -> None:
    _status(tmp_path, "base-pretrain", train_loss=3.5, fraction=0.25, tokens_per_second=9000.0)
    assert _scrape(tmp_path) == [
        'llm_training_step{run="base-pretrain"} 7.0',
        'llm_training_progress_ratio{run="base-pretrain"} 0.25',
        'llm_training_loss{run="base-pretrain"} 3.5',
        'llm_training_tokens_per_second{run="base-pretrain"} 9000.0',
    ]


def test_collector_leaves_out_runs_that_ended_or_were_killed(tmp_path: Path) -> None:
    _status(tmp_path, "ended", status="finished")
    _status(tmp_path, "killed", updated_at=0.0)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "status.json").write_text('{"run": "to', encoding="utf-8")
    assert _scrape(tmp_path) == []


def test_collector_of_a_home_without_runs(tmp_path: Path) -> None:
    assert _scrape(tmp_path / "runs") == []
