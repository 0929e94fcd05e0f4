from pathlib import Path

import pytest
from rich.progress import Progress

from training.export.speed import measure_speeds


def test_measure_speeds_times_every_graph_in_every_round(
    tiny_version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.export.speed._ROUNDS", 2)
    progress = Progress(disable=True)
    graph = tiny_version / "model.onnx"

    speeds = measure_speeds([graph, graph], 32, progress=progress)

    assert len(speeds) == 2
    for speed in speeds:
        assert list(speed.decode) == [1, 8]
        assert all(value > 0 for value in (*speed.decode.values(), speed.prefill))
    (task,) = progress.tasks
    assert (task.completed, task.total) == (2, 2)
