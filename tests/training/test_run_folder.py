from pathlib import Path

import pytest

from everloop.errors import ConfigError
from training.checkpoint import write_sidecar
from training.run_folder import open_run


def test_open_run_refuses_a_second_process(tmp_path: Path) -> None:
    with (
        open_run(tmp_path / "run", {}),
        pytest.raises(ConfigError, match="another process trains in it"),
        open_run(tmp_path / "run", {}),
    ):
        pass


def test_open_run_refuses_other_settings(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", {"model.size": "1m", "seed": "1"}):
        pass
    with (
        pytest.raises(ConfigError, match=r"started with model\.size = 1m, now it is 3m"),
        open_run(tmp_path / "run", {"model.size": "3m", "seed": "1"}),
    ):
        pass


def test_open_run_frees_the_folder_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path / "run", {}):
        raise KeyboardInterrupt
    with open_run(tmp_path / "run", {}) as run:
        assert run.finished is None


def test_last_state_is_the_newest_complete_one(tmp_path: Path) -> None:
    with open_run(tmp_path, {}) as run:
        assert run.last_state is None
        for step in (50, 100, 150):
            (run.trainer / f"checkpoint-{step}").mkdir(parents=True)
        for step in (50, 100):
            state = run.trainer / f"checkpoint-{step}" / "trainer_state.json"
            state.write_text("{}", encoding="utf-8")
        (run.trainer / "checkpoint-150" / "trainer_state.json").write_text('{"epo')  # killed
        assert run.last_state == run.trainer / "checkpoint-100"


def test_finish_puts_the_result_in_place_at_once(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        for name in ("model.safetensors", "config.json", "tokenizer.json"):
            (folder / name).write_text(name, encoding="utf-8")
        write_sidecar(folder, datasets=[], config={}, seed=0, parent=None, metrics={"steps": 3})

    with open_run(tmp_path, {}) as run:
        run.trainer.mkdir()
        (tmp_path / "checkpoint.partial").mkdir()  # left over by a process that was killed
        (tmp_path / "checkpoint.partial" / "stale").touch()
        checkpoint = run.finish(write)
        assert checkpoint.path == tmp_path / "checkpoint"
        assert not (checkpoint.path / "stale").exists()
        assert not run.trainer.exists()
        finished = run.finished
    assert finished is not None
    assert finished.metrics == {"steps": 3}
