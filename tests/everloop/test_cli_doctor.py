import json

from typer.testing import CliRunner

from everloop.cli import app


def test_doctor_says_what_is_fast_and_what_is_chosen(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("EVERLOOP_CACHE_FOLDER", str(tmp_path))

    printed = CliRunner().invoke(app, ["doctor", "--json"])
    readable = CliRunner().invoke(app, ["doctor"])

    assert printed.exit_code == readable.exit_code == 0
    record = json.loads(printed.output)
    is_faster = record["torch"]["bf16"] >= 2 * record["torch"]["fp32"]
    assert record["training"]["muon"] == ("bf16" if is_faster else "fp32")
    assert record["processor"] in readable.output
    assert "256 rows" in readable.output
