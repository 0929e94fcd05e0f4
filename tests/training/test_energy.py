from pathlib import Path

from training.energy import EnergyMeter, gpu_counters, processor_counters


def _zone(folder: Path, zone: str, name: str, energy: int) -> Path:
    path = folder / zone
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n", encoding="ascii")
    (path / "max_energy_range_uj").write_text("262143328850\n", encoding="ascii")
    _set(path, energy)
    return path


def _set(zone: Path, energy: int) -> None:
    (zone / "energy_uj").write_text(f"{energy}\n", encoding="ascii")


def test_meter_adds_packages_and_memory_without_their_parts(tmp_path: Path) -> None:
    zones = [
        _zone(tmp_path, zone, name, 5_000_000)
        for zone, name in (
            ("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl:0:1", "dram"),
            ("intel-rapl:1", "package-1"), ("intel-rapl:2", "psys"),
            ("intel-rapl-mmio:0", "package-0"),
        )
    ]  # fmt: skip
    meter = EnergyMeter(processor_counters(tmp_path))
    assert meter.read() == 0.0
    for zone in zones:
        _set(zone, 7_500_000)
    assert meter.read() == 7.5


def test_counter_goes_on_where_it_wraps(tmp_path: Path) -> None:
    zone = _zone(tmp_path, "intel-rapl:0", "package-0", 262_142_328_850)
    meter = EnergyMeter(processor_counters(tmp_path))
    _set(zone, 1_000_000)
    assert meter.read() == 2.0
    _set(zone, 4_000_000)
    assert meter.read() == 5.0


def test_what_may_not_be_read_is_not_measured(tmp_path: Path) -> None:
    zone = _zone(tmp_path, "intel-rapl:0", "package-0", 0)
    (zone / "energy_uj").unlink()
    assert EnergyMeter(processor_counters(tmp_path)).read() is None
    assert EnergyMeter(processor_counters(tmp_path / "absent")).read() is None
    assert gpu_counters("cpu") == []
