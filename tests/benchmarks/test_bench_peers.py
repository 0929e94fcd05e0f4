import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "bench-peers.sh"


def test_peers_are_pinned_without_addresses() -> None:
    lines = (ROOT / "benchmarks" / "peers.txt").read_text(encoding="utf-8").splitlines()
    peers = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", peer) for peer in peers)
    assert {"onnxruntime-genai", "openvino-genai", "ik-llama-cpp-python"} <= {
        peer.partition("==")[0] for peer in peers
    }


def test_llama_cpp_is_pinned_and_fetches_nothing() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    assert re.search(r"^LLAMA_CPP=llama-cpp-python==[0-9.]+$", text, re.MULTILINE)
    for option in ("LLAMA_CURL", "LLAMA_OPENSSL", "LLAMA_USE_PREBUILT_UI"):
        assert f"-D{option}=OFF" in text
    assert "http" not in text


def test_an_older_build_without_some_program_is_built_again() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    programs = re.search(r'^PROGRAMS="(.*)"$', text, re.MULTILINE)
    assert programs is not None
    assert {"llama-bench", "llama-batched-bench", "llama-perplexity", "llama-quantize"} == set(
        programs[1].split()
    )
    assert 'BUILT="$LLAMA_CPP $PROGRAMS libllama"' in text


def test_script_is_executable() -> None:
    assert os.access(SCRIPT, os.X_OK)
