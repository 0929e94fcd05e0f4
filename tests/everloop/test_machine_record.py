import multiprocessing
from pathlib import Path

import pytest

from everloop.machine_record import (
    MachineRecord,
    OnnxRuntimeSpeed,
    ProductSpeed,
    TorchSpeed,
    installed_version,
    load_record,
    measured_record,
)

RUNTIME = OnnxRuntimeSpeed(
    version="1",
    threads=2,
    products=(
        ProductSpeed(rows=1, fp32=10, int8=20),
        ProductSpeed(rows=8, fp32=50, int8=60),
        ProductSpeed(rows=32, fp32=90, int8=70),
        ProductSpeed(rows=256, fp32=100, int8=75),
    ),
)


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("EVERLOOP_CACHE_FOLDER", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _torch(version: str | None = None, bf16: float = 400.0) -> TorchSpeed:
    found = version or str(installed_version("torch"))
    return TorchSpeed(version=found, threads=2, fp32=100.0, bf16=bf16)


def test_nothing_is_known_of_a_new_machine() -> None:
    record = load_record()
    assert record.torch is None and record.onnxruntime is None
    assert record.processor and record.cores > 0 and record.memory_bytes > 0


def test_a_library_is_measured_once() -> None:
    calls = []

    def measure() -> TorchSpeed:
        calls.append(1)
        return _torch()

    first = measured_record("torch", measure)
    assert measured_record("torch", measure) == first == load_record()
    assert (first.memory_gb_per_second or 0) > 0
    measured_record("torch", measure, again=True)
    assert len(calls) == 2


def test_another_version_of_a_library_is_measured_anew() -> None:
    measured_record("torch", lambda: _torch("0.1"))
    assert load_record().torch is None


@pytest.mark.parametrize("changed", ["processor", "instructions", "cores"])
def test_another_machine_has_another_file(changed: str) -> None:
    record = load_record()
    value = {"processor": "other", "instructions": ("AVX2",), "cores": record.cores + 1}[changed]
    assert record.model_copy(update={changed: value}).path != record.path


def test_the_second_library_keeps_the_first() -> None:
    measured_record("torch", _torch)
    version = str(installed_version("onnxruntime"))
    runtime = RUNTIME.model_copy(update={"version": version})
    assert measured_record("onnxruntime", lambda: runtime).torch == _torch()
    assert load_record().onnxruntime == runtime


def test_a_damaged_file_is_measured_again(folder: Path) -> None:
    measured_record("torch", _torch)
    load_record().path.write_text("{", encoding="utf-8")
    assert measured_record("torch", lambda: _torch(bf16=1.0)).torch == _torch(bf16=1.0)


def test_a_folder_that_cannot_be_written_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("EVERLOOP_CACHE_FOLDER", str(file / "cache"))
    assert measured_record("torch", _torch).torch == _torch()
    assert load_record().torch is None


def _measure_in_process(log: Path) -> None:
    def measure() -> TorchSpeed:
        with log.open("a") as file:
            file.write("measured\n")
        return _torch()

    measured_record("torch", measure)


def test_of_two_processes_one_measures(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    processes = [context.Process(target=_measure_in_process, args=(log,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert log.read_text() == "measured\n"


@pytest.mark.parametrize(("bf16", "is_faster"), [(200.0, True), (199.0, False), (0.9, False)])
def test_bf16_counts_from_twice_the_speed_on(bf16: float, is_faster: bool) -> None:
    assert _torch(bf16=bf16).bf16_is_clearly_faster == is_faster


def test_rows_from_which_on_fp32_is_faster() -> None:
    assert RUNTIME.fp32_is_faster_from == 32
    assert RUNTIME.model_copy(update={"products": RUNTIME.products[:2]}).fp32_is_faster_from is None


def test_the_nearest_measured_rows_are_found() -> None:
    assert [RUNTIME.at(rows).rows for rows in (1, 2, 7, 20, 2000)] == [1, 1, 8, 32, 256]


def test_a_record_survives_its_file() -> None:
    record = MachineRecord.of_this_machine().model_copy(update={"onnxruntime": RUNTIME})
    assert MachineRecord.model_validate_json(record.model_dump_json()) == record
