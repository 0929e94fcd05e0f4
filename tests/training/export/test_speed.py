from pathlib import Path

import pytest
from rich.progress import Progress

from tests.tiny_model import make_tiny_version
from training.export.speed import measure_speeds


def test_measure_speeds_times_every_graph_in_every_round(
    tiny_version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.export.speed._ROUNDS", 2)
    progress = Progress(disable=True)
    graph = tiny_version / "model.onnx"

    speeds = measure_speeds([graph, graph], max_model_len=128, max_query_len=32, progress=progress)

    assert len(speeds) == 2
    for speed in speeds:
        assert list(speed.decode) == [1, 8]
        assert all(value > 0 for value in (*speed.decode.values(), speed.prefill))
    (task,) = progress.tasks
    assert (task.completed, task.total) == (2, 2)


def test_measure_speeds_stays_within_the_positions_of_a_short_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.export.speed._ROUNDS", 1)
    version = make_tiny_version(tmp_path, family="gpt2", max_model_len=48)

    (speed,) = measure_speeds([version / "model.onnx"], max_model_len=48, max_query_len=256)

    assert speed.prefill > 0


def test_a_graph_far_behind_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def time(graph: Path, runs: list[object], found: list[list[float]]) -> None:
        ran.append(graph.name)
        for times in found:
            times.append({"fast": 1.0, "near": 1.4, "slow": 2.0}[graph.name])

    monkeypatch.setattr("training.export.speed._time", time)
    graphs = [Path("slow"), Path("fast"), Path("near")]

    speeds = measure_speeds(graphs, max_model_len=128, max_query_len=32)

    assert [ran.count(name) for name in ("slow", "fast", "near")] == [2, 5, 5]
    assert [speed.decode[8] for speed in speeds] == pytest.approx([4.0, 8.0, 8 / 1.4])
