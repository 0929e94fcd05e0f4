import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from safetensors.torch import load_file, save_file

from everloop.errors import ArtifactError, ConfigError, DataError, RefusedError
from everloop.manifest import DatasetRef, Golden, verify
from everloop.registry import Registry
from everloop.settings import Home, RunFile
from serving.engine.config import EngineConfig
from serving.engine.llm_engine import LLMEngine
from serving.engine.sampling_params import SamplingParams
from tests.tiny_model import GOLDEN_PROMPTS, make_tiny_checkpoint
from training.checkpoint import write_sidecar
from training.export import ExportConfig, export_checkpoint, window_losses
from training.export.losses import session_losses

ROOT = Path(__file__).parents[3]
# A random model bears no 4 bits.
LIFTED = {
    "max_kl": 100.0,
    "min_top_1_agreement": 0.0,
    "max_int4_loss_increase": 1.0,
    "max_int8_cache_loss_increase": 1.0,
}


def export(checkpoint: Path, windows: np.ndarray, staging: Path, **config: object) -> Path:
    return export_checkpoint(
        checkpoint,
        windows,
        config=ExportConfig(**({"max_query_len": 32, "cache": "fp32"} | config)),
        bytes_per_token=2.0,
        golden_prompts=GOLDEN_PROMPTS,
        evaluation={"answer_f1": 0.25},
        staging=staging,
    )


@pytest.fixture
def traced_checkpoint(tmp_path: Path) -> Path:
    """A checkpoint with its sidecar."""
    checkpoint = make_tiny_checkpoint(tmp_path / "checkpoint")
    dataset = DatasetRef(id="ds-1", merkle_root="ab" * 32, rows=3, use="pretrain")
    write_sidecar(
        checkpoint,
        datasets=[dataset],
        config={"pretrain.seed": "4"},
        seed=4,
        parent="everloop:v1",
        metrics={"val_loss": 5.0},
    )
    return checkpoint


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_export_checkpoint_makes_a_verified_version(
    traced_checkpoint: Path, windows: np.ndarray, tmp_path: Path, precision: str
) -> None:
    folder = export(
        traced_checkpoint,
        windows,
        tmp_path / "staging",
        precision=precision,
        **LIFTED,
    )

    manifest = verify(folder)
    assert folder.parent == tmp_path / "staging"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert sorted(path.name for path in folder.iterdir()) == [
        "chat_template.jinja", "golden.json", "manifest.json", "model.onnx", "model.onnx.data",
        "tokenizer.json", "tokenizer_config.json", *(["wide.onnx"] if precision != "fp32" else []),
    ]  # fmt: skip
    assert manifest.has_wide_graph == (precision != "fp32")
    assert set(manifest.files) == {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert re.fullmatch(r"v\d{14}-\d{3}-[0-9a-f]{6}", manifest.version)
    assert manifest.version.endswith(manifest.lineage.checkpoint_sha256[:6])
    assert manifest.tag == f"everloop:{folder.name}"
    assert (manifest.family, manifest.architecture) == ("qwen3", "Qwen3ForCausalLM")
    assert (manifest.max_model_len, manifest.max_query_len) == (128, 32)
    assert (manifest.vocab_size, manifest.hidden_size) == (259, 64)
    assert manifest.weight_precision == precision
    assert manifest.block_size == (None if precision == "fp32" else 32)
    assert manifest.evaluation == {"answer_f1": 0.25}
    assert manifest.special_tokens.eos_token_ids == (0, 2)
    assert [tensor.input for tensor in manifest.state[:2]] == [
        "past_key_values.0.key",
        "past_key_values.0.value",
    ]
    assert manifest.state[3].output == "present.1.value"
    assert manifest.state[0].shape == (2, "capacity", 32)
    cases = Golden.model_validate_json((folder / "golden.json").read_text(encoding="utf-8")).cases
    assert all(1 <= len(case.completion_token_ids) <= 16 for case in cases)


def test_export_checkpoint_reports_what_it_measured(
    traced_checkpoint: Path, windows: np.ndarray, tmp_path: Path
) -> None:
    fp32 = export(traced_checkpoint, windows, tmp_path / "fp32", precision="fp32")
    int8 = export(traced_checkpoint, windows, tmp_path / "int8", precision="int8")

    report, report_fp32 = verify(int8).export, verify(fp32).export
    assert report_fp32.val_loss == pytest.approx(window_losses(fp32, windows).mean(), abs=1e-9)
    assert report.val_loss == pytest.approx(window_losses(int8, windows).mean(), abs=1e-9)
    assert report.val_loss_fp32 == report_fp32.val_loss == report_fp32.val_loss_fp32
    assert report.val_bpb == pytest.approx(report.val_loss / math.log(2) / 2.0)
    assert report.validation_tokens == 240
    assert 0 < report.parity.ratio < 10
    size = {folder: (folder / "model.onnx.data").stat().st_size for folder in (fp32, int8)}
    assert size[int8] < 0.4 * size[fp32]


def test_export_checkpoint_describes_an_int8_cache(
    tiny_checkpoint: Path, windows: np.ndarray, tmp_path: Path
) -> None:
    folder = export(tiny_checkpoint, windows, tmp_path, precision="int4", cache="int8", **LIFTED)

    manifest = verify(folder)
    assert {tensor.dtype for tensor in manifest.state} == {"int8"}
    assert (manifest.weight_precision, manifest.cache_precision) == ("int4", "int8")
    assert manifest.cache_bytes_per_token == 2 * 2 * 2 * 32
    (measured,) = manifest.export.precisions
    assert measured.val_loss == manifest.export.val_loss
    assert measured.weights_bytes == sum(
        (folder / name).stat().st_size for name in ("model.onnx", "model.onnx.data")
    )


def test_export_checkpoint_twice_in_a_second_gives_two_versions(
    tiny_checkpoint: Path, windows: np.ndarray, tmp_path: Path, home: Home
) -> None:
    registry = Registry(home)

    tags = {
        registry.save(export(tiny_checkpoint, windows, tmp_path, precision="fp32")).tag
        for _ in range(3)
    }

    assert len(tags) == 3


def test_export_checkpoint_carries_the_lineage(
    traced_checkpoint: Path, windows: np.ndarray, tmp_path: Path
) -> None:
    lineage = verify(export(traced_checkpoint, windows, tmp_path)).lineage

    assert [dataset.id for dataset in lineage.datasets] == ["ds-1"]
    assert (lineage.parent, lineage.seed) == ("everloop:v1", 4)
    assert lineage.config == {"pretrain.seed": "4"}


def test_export_checkpoint_counts_parameters_once(
    tiny_checkpoint: Path, windows: np.ndarray, tmp_path: Path
) -> None:
    tied = export(tiny_checkpoint, windows, tmp_path)
    checkpoint = make_tiny_checkpoint(tmp_path / "untied", is_tied=False)
    untied = export(checkpoint, windows, tmp_path)

    assert verify(untied).parameters - verify(tied).parameters == 259 * 64


def test_export_checkpoint_is_taken_by_the_registry(
    tiny_version: Path, home: Home, windows: np.ndarray
) -> None:
    version = Registry(home).save(tiny_version)

    assert version.tag == verify(tiny_version).tag
    assert window_losses(version.path, windows).shape == (6,)


def test_verify_finds_a_changed_byte(
    tiny_checkpoint: Path, windows: np.ndarray, tmp_path: Path
) -> None:
    folder = export(tiny_checkpoint, windows, tmp_path)
    for name in ("model.onnx.data", "golden.json"):
        original = (folder / name).read_bytes()
        (folder / name).write_bytes(original[:-2] + b"\x7f" + original[-1:])
        with pytest.raises(ArtifactError, match=f"{name} was changed"):
            verify(folder)
        (folder / name).write_bytes(original)
    assert verify(folder)


def test_export_checkpoint_refuses_a_changed_byte(
    traced_checkpoint: Path, windows: np.ndarray, tmp_path: Path
) -> None:
    path = traced_checkpoint / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)

    with pytest.raises(ArtifactError, match=r"model\.safetensors was changed"):
        export(traced_checkpoint, windows, tmp_path / "staging")


def test_export_checkpoint_refuses_pickled_weights(windows: np.ndarray, tmp_path: Path) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "checkpoint")
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")

    with pytest.raises(ArtifactError, match=r"pytorch_model\.bin holds pickled weights"):
        export(checkpoint, windows, tmp_path)


def test_export_checkpoint_refuses_an_unknown_architecture(
    windows: np.ndarray, tmp_path: Path
) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "checkpoint")
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    config["architectures"] = ["BloomForCausalLM"]
    (checkpoint / "config.json").write_text(json.dumps(config), encoding="utf-8")

    with pytest.raises(ArtifactError, match=r"BloomForCausalLM .* LlamaForCausalLM, Mistral"):
        export(checkpoint, windows, tmp_path)


def test_export_checkpoint_refuses_int8_that_loses_too_much(
    tiny_checkpoint: Path,
    build: Callable[..., ort.InferenceSession],
    windows: np.ndarray,
    tmp_path: Path,
) -> None:
    fp32, int8 = (
        session_losses(build(tiny_checkpoint, precision), windows) for precision in ("fp32", "int8")
    )
    harmed = windows[int8 > fp32]  # of a random model, int8 also betters some
    assert len(harmed)

    with pytest.raises(RefusedError, match=r"from \d\.\d{4} to \d\.\d{4} .* limit is \+0\.00%"):
        export(tiny_checkpoint, harmed, tmp_path, precision="int8", max_int8_loss_increase=0.0)
    assert list(tmp_path.iterdir()) == []


def test_export_checkpoint_refuses_a_graph_that_differs(
    tiny_checkpoint: Path, windows: np.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match=r"is \S+e-0\d away from float64 .* limit is 0\.01"):
        export(tiny_checkpoint, windows, tmp_path, max_parity_ratio=0.01)


@pytest.mark.parametrize("max_model_len", [256, 1_000_000])
def test_export_checkpoint_refuses_a_length_beyond_the_model(
    tiny_checkpoint: Path, windows: np.ndarray, tmp_path: Path, max_model_len: int
) -> None:
    with pytest.raises(ConfigError, match="between 32 and the 128 positions"):
        export(tiny_checkpoint, windows, tmp_path, max_model_len=max_model_len)


def test_export_checkpoint_takes_a_shorter_length(
    tiny_checkpoint: Path, windows: np.ndarray, tmp_path: Path
) -> None:
    folder = export(tiny_checkpoint, windows, tmp_path, max_model_len=48)

    assert verify(folder).max_model_len == 48
    with pytest.raises(DataError, match="the model takes 48"):
        window_losses(folder, np.zeros((1, 60), np.int64))


def test_export_checkpoint_bounds_the_width_of_steps_by_the_length(
    windows: np.ndarray, tmp_path: Path
) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "checkpoint", family="gpt2", max_model_len=64)

    folder = export(checkpoint, windows, tmp_path, precision="fp32", max_query_len=256)

    assert verify(folder).max_query_len == 64
    engine = LLMEngine.load(folder, EngineConfig(num_threads=1, max_num_seqs=2))
    params = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)
    assert len(engine.generate([[5] * 60], params)[0].token_ids) == 4


def test_export_checkpoint_keeps_a_finished_version(
    tiny_checkpoint: Path, windows: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export(tiny_checkpoint, windows, tmp_path)
    monkeypatch.setattr("training.export.version._version_name", lambda lineage: folder.name)

    with pytest.raises(ArtifactError, match="already exists"):
        export(tiny_checkpoint, windows, tmp_path)


def test_export_checkpoint_ignores_an_extra_tied_head(
    tiny_checkpoint: Path, windows: np.ndarray, tmp_path: Path
) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "checkpoint")
    tensors = load_file(checkpoint / "model.safetensors")
    head = tensors["model.embed_tokens.weight"].clone()
    path = checkpoint / "model.safetensors"
    save_file(tensors | {"lm_head.weight": head}, path, metadata={"format": "pt"})

    folder = export(checkpoint, windows, tmp_path)

    assert (
        verify(folder).parameters == verify(export(tiny_checkpoint, windows, tmp_path)).parameters
    )


def test_export_config_matches_the_run_file() -> None:
    run = RunFile.load(ROOT / "configs" / "python-docs.toml")

    assert run.table("export", ExportConfig) == ExportConfig()
