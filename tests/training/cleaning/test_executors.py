"""The same pipeline gives the same dataset on every executor."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from everloop.errors import ConfigError, DataError, RefusedError
from everloop.settings import Home
from tests.training.cleaning.corpus import config, write_corpus
from training.cleaning.executors import make_executor
from training.dataset import build_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus", files=3)


def test_tasks_do_not_change_the_result(folder: Path, home: Home) -> None:
    one = build_dataset(config(folder, task_megabytes=64.0), Home(home.root / "one"))
    many = build_dataset(config(folder), home)
    assert one.id == many.id
    assert one.dropped == many.dropped
    assert many.dropped == {
        "duplicates": {"duplicate": 3, "near_duplicate": 3},
        "length": {"too_short": 3},
    }
    assert many.masked == {"email": 3}


def test_parts_of_one_file_do_not_change_the_result(tmp_path: Path, home: Home) -> None:
    folder = write_corpus(tmp_path / "corpus", files=1)
    size = (folder / "0.jsonl").stat().st_size
    whole = build_dataset(config(folder, task_megabytes=64.0), Home(home.root / "one"))
    assert build_dataset(config(folder, task_megabytes=size / 4e6), home).id == whole.id
    rows = (home.data / whole.id / "documents.jsonl").read_bytes()
    assert rows == (home.root / "one" / "data" / whole.id / "documents.jsonl").read_bytes()


@pytest.mark.slow
def test_processes_give_the_same_dataset(folder: Path, home: Home) -> None:
    expected = build_dataset(config(folder), Home(home.root / "one"))
    assert build_dataset(config(folder, workers=2), home).id == expected.id


@pytest.mark.slow
def test_an_error_in_a_process_is_the_error_of_the_build(folder: Path, home: Home) -> None:
    (folder / "9.jsonl").write_bytes(b"\0")
    with pytest.raises(DataError, match=r"9\.jsonl: line 1 holds a zero byte"):
        build_dataset(config(folder, workers=2), home)


@pytest.mark.slow
def test_ray_gives_the_same_dataset(folder: Path, home: Home) -> None:
    ray = pytest.importorskip("ray")
    expected = build_dataset(config(folder), Home(home.root / "one"))
    table = config(folder, kind="ray", workers=2, memory_gigabytes=1)
    try:
        assert build_dataset(table, home).id == expected.id
    finally:
        ray.shutdown()


def test_ray_that_is_not_installed_is_named(
    folder: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'everloop\[ray\]'"):
        make_executor(config(folder, kind="ray").executor, [], home.root, 1)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Slurm of one machine: sbatch keeps the script and names a job, scontrol names the host."""
    tools, jobs = tmp_path / "bin", tmp_path / "jobs"
    jobs.mkdir()
    tools.mkdir()
    commands = {
        "sbatch": f'cp "${{@: -1}}" {jobs}/$$.slurm; echo "$@" > {jobs}/$$.args; '
        f"mv {jobs}/$$.slurm {jobs}/$(ls {jobs}/*.slurm | wc -l).slurm; "
        f"mv {jobs}/$$.args {jobs}/$(ls {jobs}/*.slurm | wc -l).args; "
        f"echo Submitted batch job $(ls {jobs}/*.slurm | wc -l)",
        "scontrol": "echo localhost",
    }
    for name, command in commands.items():
        path = tools / name
        path.write_text(f"#!/bin/bash\n{command}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return jobs


def test_slurm_gets_one_job_per_stage_that_waits_for_the_one_before(
    folder: Path, home: Home, slurm: Path
) -> None:
    table = config(folder, kind="slurm", partition="cpu-long", workers=2, environment="ml python")
    with pytest.raises(RefusedError, match=r"runs on Slurm.*Run the same command again"):
        build_dataset(table, home)
    scripts = {path.stem: path.read_text() for path in slurm.glob("*.slurm")}
    stages = {
        name: number
        for number, script in scripts.items()
        for name in ("clean", "signatures", "candidates", "duplicates")
        if f"--job-name=everloop-{name}\n" in script and "launch_pickled_pipeline" in script
    }
    assert set(stages) == {"clean", "signatures", "candidates", "duplicates"}
    clean = scripts[stages["clean"]]
    assert "#SBATCH --partition=cpu-long\n" in clean
    assert "#SBATCH --array=0-2%2\n" in clean
    assert "#SBATCH --mem-per-cpu=2G\n" in clean
    assert "\nml python\n" in clean
    waits = (slurm / f"{stages['signatures']}.args").read_text()
    assert f"--dependency=afterok:{stages['clean']}" in waits
    # A second look submits nothing, as long as the jobs are there.
    with pytest.raises(RefusedError, match="runs on Slurm"):
        build_dataset(table, home)
    assert len(list(slurm.glob("*.slurm"))) == len(scripts)


@pytest.mark.slow
def test_what_slurm_runs_gives_the_same_dataset(folder: Path, home: Home, slurm: Path) -> None:
    expected = build_dataset(config(folder), Home(home.root / "one"))
    table = config(folder, kind="slurm")
    with pytest.raises(RefusedError):
        build_dataset(table, home)
    (work,) = home.data.glob(".work-????????????")
    for stage in ("clean", "signatures", "candidates", "duplicates"):
        for task in range(3):
            subprocess.run(
                [Path(sys.executable).with_name("launch_pickled_pipeline"),
                 work / "logs" / stage / "executor.pik"],
                env={**os.environ, "SLURM_ARRAY_TASK_ID": str(task), "SLURM_NODELIST": "localhost",
                     "PYTHONPATH": str(Path(__file__).parents[3])},
                check=True,
                capture_output=True,
            )  # fmt: skip
    assert build_dataset(table, home).id == expected.id
