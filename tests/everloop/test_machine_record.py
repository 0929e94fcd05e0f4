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


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERLOOP_CACHE_FOLDER", str(tmp_path))


def speed(fp32: float = 95.0) -> TorchSpeed:
    return TorchSpeed(version=installed_version("torch"), threads=2, fp32=fp32, bf16=0.9)


def test_a_record_is_measured_once() -> None:
    first = measured_record("torch", lambda: speed(95.0))
    second = measured_record("torch", lambda: speed(50.0))

    assert first == second == load_record()
    assert first.torch.fp32 == 95.0
    assert first.memory_gb_per_second > 0


def test_a_record_of_another_version_is_measured_again() -> None:
    old = speed().model_copy(update={"version": "1.0"})
    measured_record("torch", lambda: old)

    assert load_record().torch is None
    assert measured_record("torch", lambda: speed(50.0)).torch.fp32 == 50.0


def test_a_damaged_record_counts_as_none() -> None:
    measured_record("torch", speed)
    load_record().path.write_text("{", encoding="utf-8")

    assert load_record().torch is None


def test_a_record_that_cannot_be_kept_is_no_failure(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("EVERLOOP_CACHE_FOLDER", str(tmp_path / "file"))

    assert measured_record("torch", speed).torch == speed()


def test_another_processor_has_another_file() -> None:
    here = MachineRecord.of_this_machine()

    assert here.path != here.model_copy(update={"cores": here.cores + 1}).path
    assert here.path != here.model_copy(update={"instructions": ("SSE2",)}).path


def test_rows_from_which_fp32_is_faster() -> None:
    def record(*gains: float) -> OnnxRuntimeSpeed:
        rows = (1, 8, 32, 256)
        products = [
            ProductSpeed(rows=row, fp32=100.0, int8=100 * gain)
            for row, gain in zip(rows, gains, strict=True)
        ]
        return OnnxRuntimeSpeed(version="1.32.0", threads=2, products=tuple(products))

    assert record(2.0, 1.5, 0.8, 0.5).fp32_is_faster_from == 32
    assert record(2.0, 0.9, 1.2, 0.5).fp32_is_faster_from == 256
    assert record(2.0, 1.5, 1.2, 1.1).fp32_is_faster_from is None
