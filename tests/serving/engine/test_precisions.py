"""Quantized weights and caches in the engine: loaded, proven, and served like any other."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from everloop.errors import ArtifactError
from everloop.manifest import sha256_file
from serving.engine.config import EngineConfig
from serving.engine.llm_engine import LLMEngine
from serving.engine.sampling_params import SamplingParams
from tests.tiny_model import make_tiny_version

PROMPTS = [
    np.random.default_rng(length).integers(3, 259, length).tolist() for length in (3, 40, 17, 70)
]
GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)


def sign(folder: Path) -> None:
    """Make the manifest agree with the files again."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"] = {name: sha256_file(folder / name) for name in manifest["files"]}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("family", ["mistral", "gpt2"])
def test_engine_serves_an_int8_cache_alike_alone_and_in_company(
    tmp_path: Path, engine_config: EngineConfig, family: str, precision: str
) -> None:
    version = make_tiny_version(tmp_path, family=family, precision=precision, cache="int8")
    engine = LLMEngine.load(version, engine_config)
    assert engine.manifest.cache_precision == "int8"
    heads = {"mistral": 2, "gpt2": 4}[family]
    assert engine.memory.cache == 4 * (4 * heads * 160 * 16)  # slots x tensors of one byte a value

    together = engine.generate(PROMPTS, [GREEDY] * 4)

    for prompt, beside in zip(PROMPTS, together, strict=True):
        (alone,) = LLMEngine.load(version, engine_config).generate([prompt], [GREEDY])
        assert alone.token_ids == beside.token_ids


def test_load_takes_a_processor_that_does_not_round_activations(
    tmp_path: Path, engine_config: EngineConfig
) -> None:
    version = make_tiny_version(tmp_path, family="mistral", precision="int8", cache="int8")
    (version / "model.onnx").write_bytes((version / "wide.onnx").read_bytes())
    sign(version)

    LLMEngine.load(version, engine_config)


def test_load_refuses_a_processor_that_computes_something_else(
    tmp_path: Path, engine_config: EngineConfig
) -> None:
    version = make_tiny_version(tmp_path, family="mistral", precision="int8", cache="int8")
    model = onnx.load_model(str(version / "model.onnx"), load_external_data=False)
    for node in model.graph.node:
        if node.op_type == "GroupQueryAttention":
            scale = next(value for value in node.attribute if value.name == "scale")
            scale.f *= 30
    (version / "model.onnx").write_bytes(model.SerializeToString())
    sign(version)

    with pytest.raises(ArtifactError, match=r"case \d of 3 continues with"):
        LLMEngine.load(version, engine_config)


def test_engine_reuses_a_prefix_of_an_int8_cache(
    tmp_path: Path, engine_config: EngineConfig
) -> None:
    version = make_tiny_version(tmp_path, family="mistral", precision="int8", cache="int8")
    engine = LLMEngine.load(version, engine_config)
    prompt = PROMPTS[3]

    (first,) = engine.generate([prompt], [GREEDY])
    (again,) = engine.generate([prompt], [GREEDY])

    assert again.token_ids == first.token_ids
