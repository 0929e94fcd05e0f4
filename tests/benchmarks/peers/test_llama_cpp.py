from pathlib import Path

import pytest

from benchmarks.peers import llama_cpp
from benchmarks.peers.llama_cpp import LlamaCppSide, cache_options
from benchmarks.random_model import TINY, make_checkpoint

SCRIPT = """#!/bin/sh
echo "$0 $@" >> {log}
echo "loading"
echo '{answer}'
"""


def fake(path: Path, log: Path, answer: str) -> Path:
    path.write_text(SCRIPT.format(log=log, answer=answer), encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that answer with fixed speeds, and the log of how they were called."""
    log = tmp_path / "log"
    programs = {"BENCH": '{"avg_ts": 12.5}', "BATCHED_BENCH": '{"speed_pp": 1.0, "speed_tg": 99.5}'}
    for name, answer in programs.items():
        monkeypatch.setattr(llama_cpp, name, fake(tmp_path / name.lower(), log, answer))
    monkeypatch.setattr(llama_cpp, "write_model", lambda checkpoint, kind: Path("m.gguf"))
    return log


def calls(log: Path) -> list[str]:
    lines = log.read_text(encoding="utf-8").splitlines()
    return [line.rpartition("/")[2] for line in lines]


def test_one_row_is_measured_by_llama_bench_after_a_prompt(log: Path) -> None:
    with LlamaCppSide(Path("checkpoint"), "F32", "f16", 2) as side:
        assert side.decode([[5] * 128], 48) == 12.5
    assert calls(log) == ["bench -m m.gguf -t 2 -p 0 -n 48 -d 128 -r 1 -o jsonl"]


def test_many_rows_are_measured_by_the_batched_bench(log: Path) -> None:
    with LlamaCppSide(Path("checkpoint"), "Q8_0", "q8_0", 2) as side:
        assert side.decode([[5] * 128] * 8, 48) == 99.5
    assert calls(log) == [
        "batched_bench -m m.gguf -t 2 -ctk q8_0 -ctv q8_0 -fa on "
        "-c 1408 -npp 128 -ntg 48 -npl 8 --output-format jsonl"
    ]


def test_prefill_generates_nothing(log: Path) -> None:
    with LlamaCppSide(Path("checkpoint"), "F32", "f16", 1) as side:
        assert side.prefill([5] * 512) == 12.5
    assert calls(log) == ["bench -m m.gguf -t 1 -p 512 -n 0 -r 1 -o jsonl"]


def test_a_program_that_fails_says_so(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'no such file' >&2\nexit 3\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setattr(llama_cpp, "BENCH", broken)
    with (
        LlamaCppSide(Path("checkpoint"), "F32", "f16", 1) as side,
        pytest.raises(RuntimeError, match=r"broken failed \(3\): no such file"),
    ):
        side.prefill([5])


def test_a_quantized_cache_needs_flash_attention() -> None:
    assert cache_options("f16") == []
    assert cache_options("q8_0") == ["-ctk", "q8_0", "-ctv", "q8_0", "-fa", "on"]


@pytest.mark.slow
@pytest.mark.skipif(not llama_cpp.is_present(), reason="no llama.cpp: run make bench-peers")
@pytest.mark.parametrize(("kind", "cache"), [("F32", "f16"), ("Q8_0", "q8_0"), ("Q4_0", "f16")])
def test_llama_cpp_runs_our_weights(tmp_path: Path, kind: str, cache: str) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", TINY)
    with LlamaCppSide(checkpoint, kind, cache, 1) as side:
        assert side.decode([[5] * 8], 4) > 0
        assert side.decode([[5] * 8] * 2, 4) > 0
        assert side.prefill([5] * 16) > 0
