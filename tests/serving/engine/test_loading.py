"""What is refused before a version takes a request."""

import json
import shutil
from pathlib import Path

import pytest

from everloop.errors import ArtifactError
from serving.engine.config import EngineConfig
from serving.engine.llm_engine import LLMEngine
from tests.planted_version import sign


@pytest.fixture
def copy(tiny_version: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_version, tmp_path / "copy")


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


def _change_golden(folder: Path, **changes: object) -> dict[str, object]:
    """Make the second of three cases expect another tenth token."""
    golden = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    case = golden["cases"][1]
    case["completion_token_ids"][9] ^= 1
    case["leads"][9] = changes.pop("lead", case["leads"][9])
    golden |= changes
    (folder / "golden.json").write_text(json.dumps(golden), encoding="utf-8")
    sign(folder)
    return golden


def test_load_refuses_another_golden_continuation(copy: Path, engine_config: EngineConfig) -> None:
    _change_golden(copy, lead=0.5, clear_lead=0.4)
    with pytest.raises(ArtifactError, match="case 2 of 3 continues with"):
        LLMEngine.load(copy, engine_config)


def test_load_takes_another_continuation_after_an_unclear_token(
    copy: Path, engine_config: EngineConfig, caplog: pytest.LogCaptureFixture
) -> None:
    _change_golden(copy, lead=0.3, clear_lead=0.4)
    with caplog.at_level("INFO", "serving.engine.loading"):
        LLMEngine.load(copy, engine_config)
    assert "left at an unclear token case=2 token=10 lead=0.3000" in caplog.text


def test_load_compares_every_token_of_an_older_golden_file(
    copy: Path, engine_config: EngineConfig
) -> None:
    golden = _change_golden(copy)
    del golden["clear_lead"]
    for case in golden["cases"]:  # type: ignore[attr-defined]
        del case["leads"]
    (copy / "golden.json").write_text(json.dumps(golden), encoding="utf-8")
    sign(copy)
    with pytest.raises(ArtifactError, match="case 2 of 3 continues with"):
        LLMEngine.load(copy, engine_config)


def test_load_refuses_an_unreadable_golden_file(copy: Path, engine_config: EngineConfig) -> None:
    (copy / "golden.json").write_text("[]", encoding="utf-8")
    sign(copy)
    with pytest.raises(ArtifactError, match=r"golden\.json is unreadable"):
        LLMEngine.load(copy, engine_config)


def test_load_refuses_an_unreadable_tokenizer(copy: Path, engine_config: EngineConfig) -> None:
    (copy / "tokenizer.json").write_text("{}", encoding="utf-8")
    sign(copy)
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


def test_load_reads_the_chat_template(copy: Path, engine_config: EngineConfig) -> None:
    assert LLMEngine.load(copy, engine_config).chat_template is not None
    (copy / "chat_template.jinja").unlink()
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    del manifest["files"]["chat_template.jinja"]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    assert LLMEngine.load(copy, engine_config).chat_template is None
