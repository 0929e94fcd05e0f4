"""Import the compiled wheels of serving, training and monitoring, as a process of its own.

qemu-x86_64 -cpu Nehalem python -m tests.processors.import_process

torch, transformers and ONNX Runtime are left to the other processes, which compute with them.
"""

import json
from importlib import import_module

from everloop.machine import instruction_sets

MODULES = (
    "llguidance", "lxml.etree", "numpy", "onnx", "pandas", "psutil", "pyarrow", "pydantic_core",
    "safetensors", "scipy.stats", "sklearn.linear_model", "sqlalchemy", "tokenizers", "xxhash",
    "zstandard",
)  # fmt: skip

if __name__ == "__main__":
    for name in MODULES:
        import_module(name)
    print(json.dumps({"instructions": instruction_sets(), "modules": MODULES}))
