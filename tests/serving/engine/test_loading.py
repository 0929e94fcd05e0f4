"""What is refused before a version takes a request."""

import json
import shutil
from pathlib import Path

import pytest

from everloop.errors import ArtifactError, ConfigError
from everloop.manifest import read_manifest, sha256_file
from serving.engine.config import EngineConfig
from serving.engine.llm_engine import LLMEngine
from serving.engine.loading import check_memory


@pytest.fixture
def copy(tiny_version: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_version, tmp_path / "copy")


def _sign(folder: Path) -> None:
    """Make the manifest agree with the files again."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["files"] = {name: sha256_file(folder / name) for name in manifest["files"]}
    path.write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize("name", ["model.onnx.data", "tokenizer.json", "golden.json"])
def test_load_refuses_a_changed_byte(copy: Path, engine_config: EngineConfig, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{name} was changed after .*everloop:v"):
        LLMEngine.load(copy, engine_config)


def test_load_refuses_a_folder_that_is_no_version(
    tmp_path: Path, engine_config: EngineConfig
) -> None:
    with pytest.raises(ArtifactError, match="is not a model version"):
        LLMEngine.load(tmp_path, engine_config)


def test_load_refuses_another_golden_continuation(copy: Path, engine_config: EngineConfig) -> None:
    golden = json.loads((copy / "golden.json").read_text(encoding="utf-8"))
    golden["cases"][1]["completion_token_ids"][9] ^= 1
    (copy / "golden.json").write_text(json.dumps(golden), encoding="utf-8")
    _sign(copy)
    with pytest.raises(ArtifactError, match="case 2 of 3 continues with"):
        LLMEngine.load(copy, engine_config)


def test_load_refuses_an_unreadable_golden_file(copy: Path, engine_config: EngineConfig) -> None:
    (copy / "golden.json").write_text("[]", encoding="utf-8")
    _sign(copy)
    with pytest.raises(ArtifactError, match=r"golden\.json is unreadable"):
        LLMEngine.load(copy, engine_config)


def test_load_refuses_an_unreadable_tokenizer(copy: Path, engine_config: EngineConfig) -> None:
    (copy / "tokenizer.json").write_text("{}", encoding="utf-8")
    _sign(copy)
    with pytest.raises(ArtifactError, match=r"tokenizer\.json is no tokenizer"):
        LLMEngine.load(copy, engine_config)


def test_load_refuses_a_tokenizer_with_more_tokens_than_the_model(
    copy: Path, engine_config: EngineConfig
) -> None:
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(manifest | {"vocab_size": 258}), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"has 259 tokens, the model of .* knows 258"):
        LLMEngine.load(copy, engine_config)


def test_load_refuses_what_does_not_fit_into_memory(tiny_version: Path) -> None:
    config = EngineConfig(max_memory_bytes=2_000_000)
    with pytest.raises(ConfigError, match=r"for the cache of 32 sequences.*Lower engine\.max_num"):
        LLMEngine.load(tiny_version, config)


def test_check_memory_counts_weights_and_cache(tiny_version: Path) -> None:
    manifest = read_manifest(tiny_version)
    weights = sum(
        (tiny_version / name).stat().st_size for name in ("model.onnx", "model.onnx.data")
    )
    cache = 4 * (4 * 2 * 160 * 32 * 4)  # slots x tensors, heads, capacity, head_dim, bytes
    exact = EngineConfig(max_num_seqs=4, max_memory_bytes=weights + cache)
    check_memory(tiny_version, manifest, exact)
    with pytest.raises(ConfigError):
        check_memory(
            tiny_version,
            manifest,
            exact.model_copy(update={"max_memory_bytes": weights + cache - 1}),
        )


def test_load_reads_the_chat_template(copy: Path, engine_config: EngineConfig) -> None:
    assert LLMEngine.load(copy, engine_config).chat_template is not None
    (copy / "chat_template.jinja").unlink()
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    del manifest["files"]["chat_template.jinja"]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    assert LLMEngine.load(copy, engine_config).chat_template is None
