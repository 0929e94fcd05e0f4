"""Faults planted into the folder of a model version, which still agrees with its manifest."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from everloop.manifest import sha256_file

# Large against the rounding of logits, small against the lead of a likely token.
_SHARE = 2.0**-16


def sign(folder: Path) -> None:
    """Make the manifest agree with the files again."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["files"] = {name: sha256_file(folder / name) for name in manifest["files"]}
    path.write_text(json.dumps(manifest), encoding="utf-8")


def depend_on_company(folder: Path) -> None:
    """Add to every row's logits a small share of the sum over all rows of the step."""
    path = folder / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.output[list(last.output).index("logits")] = "own"
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([0], np.int64), "rows_axis"),
            numpy_helper.from_array(np.array(_SHARE, np.float32), "share"),
        ]
    )
    model.graph.node.extend(
        [
            helper.make_node("ReduceSum", ["own", "rows_axis"], ["company"], keepdims=1),
            helper.make_node("Mul", ["company", "share"], ["shared"]),
            helper.make_node("Add", ["own", "shared"], ["logits"]),
        ]
    )
    onnx.save(model, path)
    sign(folder)


def expect_another_token(folder: Path) -> None:
    """Make the golden text's second case expect another tenth token, as if its lead were clear."""
    path = folder / "golden.json"
    golden = json.loads(path.read_text(encoding="utf-8"))
    case = golden["cases"][1]
    case["completion_token_ids"][9] ^= 1
    case["leads"][9] = golden["clear_lead"] + 1
    path.write_text(json.dumps(golden), encoding="utf-8")
    sign(folder)
