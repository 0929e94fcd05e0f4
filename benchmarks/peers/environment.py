"""Where `make bench-peers` puts the peers, and what they make of our weights.

Models in the peers' formats are kept under the hash of the weights that they were made from.
"""

import hashlib
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv-peers"
PYTHON = FOLDER / "bin" / "python"
LLAMA_CPP = FOLDER / "llama.cpp"


def is_installed(package: str) -> bool:
    """Whether the environment has a Python package."""
    return any(FOLDER.glob(f"lib/python*/site-packages/{package}"))


def model_folder(checkpoint: Path) -> Path:
    """Folder for what is made from a checkpoint; made if absent."""
    digest = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()[:12]
    folder = FOLDER / "models" / digest
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def own_variables() -> dict[str, str]:
    """The environment for a peer: without what our engine chose for its ONNX Runtime."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ORT_")}


def run_module(module: str, *arguments: str | Path) -> None:
    """Run a module in the peers' environment, silently.

    Raises:
        RuntimeError: it failed; the end of its output says why.
    """
    command = [str(PYTHON), "-m", module, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{module} failed ({done.returncode}): {done.stdout[-2000:]}")
