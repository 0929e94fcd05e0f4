import argparse
import json

import pytest

from benchmarks.report import PressureMeter, Result, publish

RESULTS = [
    Result.of_rounds(
        "decode, 8 rows", "tokens/s", [300.0, 100.0, 220.0], [100.0, 50.0, 100.0], 2.5
    ),
    Result(name="memory", value=1234.5, unit="MiB"),
]


def test_of_rounds_takes_medians_and_compares_round_by_round() -> None:
    assert RESULTS[0] == Result(
        name="decode, 8 rows",
        value=220.0,
        unit="tokens/s",
        value_range=(100.0, 300.0),
        peer=100.0,
        ratio=2.2,
        ratio_range=(2.0, 3.0),
        target=2.5,
        ok=False,
    )


def test_of_rounds_without_a_target_judges_nothing() -> None:
    result = Result.of_rounds("x", "s", [2.0], [1.0])
    assert (result.ratio, result.target, result.ok) == (2.0, None, None)


def test_of_values_has_a_floor_or_a_ceiling() -> None:
    floor = Result.of_values("share", "share", [0.5, 0.8, 0.6], at_least=0.7)
    assert (floor.value, floor.value_range, floor.target, floor.ok) == (0.6, (0.5, 0.8), 0.7, False)
    ceiling = Result.of_values("time", "us", [25.0, 31.0, 28.0], at_most=30.0)
    assert (ceiling.value, ceiling.target, ceiling.ok) == (28.0, 30.0, True)


def test_publish_as_json_writes_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    publish("engine", RESULTS, argparse.Namespace(quick=True, json=True), cpu_pressure=0.5)
    document = json.loads(capsys.readouterr().out)
    assert (document["benchmark"], document["quick"], document["cpu_pressure"]) == (
        "engine",
        True,
        0.5,
    )
    assert {"machine", "date", "commit"} <= document.keys()
    assert document["results"][1] == {
        "name": "memory",
        "value": 1234.5,
        "unit": "MiB",
        "value_range": None,
        "peer": None,
        "ratio": None,
        "ratio_range": None,
        "target": None,
        "ok": None,
        "cpu_pressure": None,
    }


def test_publish_as_table_names_values_and_verdicts(capsys: pytest.CaptureFixture[str]) -> None:
    options = argparse.Namespace(quick=False, json=False)
    publish("engine", RESULTS, options, cpu_pressure=0.25, settings={"threads": 2})
    out = capsys.readouterr().out
    for text in (
        "decode, 8 rows",
        "220",
        "2.00-3.00",
        "2.50",
        "missed",
        "1,234",
        "threads: 2",
        "pressure 0.25: above 0.05 others",
    ):
        assert text in out


def test_publish_as_markdown_gives_a_table_with_its_circumstances(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = argparse.Namespace(quick=False, json=False, markdown=True)
    publish("engine", RESULTS, options, cpu_pressure=0.01, settings={"threads": 2, "GB/s": 65.0})
    first, blank, *table = capsys.readouterr().out.splitlines()
    assert first.startswith("`engine`, ")
    assert first.endswith("CPU pressure 0.01. threads: 2; GB/s: 65.00.")
    assert blank == ""
    assert table == [
        "| measurement | value | unit | peer | ratio | range | target | ok | pressure |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| decode, 8 rows | 220 | tokens/s | 100 | 2.20 | 2.00-3.00 | 2.50 | missed |  |",
        "| memory | 1,234 | MiB |  |  |  |  |  |  |",
    ]


def test_pressure_is_a_share_or_absent() -> None:
    share = PressureMeter().read()
    assert share is None or share >= 0


def test_publish_gives_losses_with_four_digits(capsys: pytest.CaptureFixture[str]) -> None:
    options = argparse.Namespace(quick=False, json=False, markdown=True)
    publish("x", [Result(name="loss", value=1.47256, unit="nats/token", peer=1.5)], options, None)
    assert "| loss | 1.4726 | nats/token | 1.5000 |" in capsys.readouterr().out
