import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from everloop.cli import app, main
from everloop.errors import ArtifactError, ConfigError, DataError
from everloop.importing import import_checkpoint, name_of
from everloop.lifecycle import checkpoint_of, find_checkpoint, validation_windows
from everloop.manifest import sha256_file, verify
from everloop.registry import Registry
from everloop.settings import Home, RunFile
from feedback.store.store import open_store
from tests.tiny_model import make_tiny_checkpoint
from training.export.families import FAMILIES
from training.pretrained import load_model, quiet_transformers

FP32 = RunFile("test", {"export": {"precision": "fp32", "max_query_len": 32, "cache": "fp32"}})
TEXT = "".join(f"The value of row {number} is {number * number}.\n" for number in range(400))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A Llama folder from elsewhere: no sidecar, 64 positions."""
    return make_tiny_checkpoint(tmp_path / "Tiny Llama_1M", family="llama", max_model_len=64)


@pytest.fixture
def text(tmp_path: Path) -> str:
    """A text of some thousand tokens."""
    path = tmp_path / "text.md"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def test_import_checkpoint_saves_and_records_a_version(
    home: Home, checkpoint: Path, text: str
) -> None:
    version = import_checkpoint(home, FP32, checkpoint, text=text)

    manifest = verify(version.path)
    assert (manifest.name, manifest.family) == ("tiny-llama_1m", "llama")
    assert manifest.max_model_len == 64
    assert manifest.export.val_bpb == pytest.approx(manifest.export.val_loss / 0.693147, rel=1e-4)
    assert manifest.export.validation_text == text
    assert manifest.lineage.datasets == ()
    weights = sha256_file(checkpoint / "model.safetensors")
    assert manifest.lineage.checkpoint_sha256 == weights
    assert [each.tag for each in Registry(home).list()] == [version.tag]
    assert list(home.root.glob("import-*")) == []
    store = open_store(home.database_url)
    assert [each.tag for each in store.model_versions()] == [version.tag]
    store.close()


def test_import_checkpoint_keeps_a_link_for_tuning_and_the_loop(
    home: Home, checkpoint: Path, text: str
) -> None:
    version = import_checkpoint(home, FP32, checkpoint, text=text)

    found = checkpoint_of(home, version)
    assert found.path == home.runs / "tiny-llama_1m" / "checkpoint"
    assert found.path.resolve() == checkpoint.resolve()
    assert find_checkpoint(home, "tiny-llama_1m").sha256 == found.sha256
    windows, bytes_per_token = validation_windows(home, found, 8)
    assert windows.shape == (8, 65)
    assert bytes_per_token == pytest.approx(1.0)


def test_import_checkpoint_of_a_taken_name_keeps_both(
    home: Home, checkpoint: Path, tmp_path: Path, text: str
) -> None:
    other = make_tiny_checkpoint(tmp_path / "b", family="llama", max_model_len=64, seed=1)
    run = RunFile("test", {"export": FP32.values["export"] | {"name": "same"}})

    versions = [import_checkpoint(home, run, folder, text=text) for folder in (checkpoint, other)]

    found = [checkpoint_of(home, version).path.resolve() for version in versions]
    assert found == [checkpoint.resolve(), other.resolve()]


def test_import_checkpoint_may_be_shorter_than_a_window(
    home: Home, checkpoint: Path, text: str
) -> None:
    run = RunFile("test", {"export": FP32.values["export"] | {"max_model_len": 40}})

    manifest = import_checkpoint(home, run, checkpoint, text=text).manifest

    assert manifest.max_model_len == 40
    assert manifest.export.validation_tokens == 8 * 40


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_import_checkpoint_takes_16_bit_shards(
    home: Home, checkpoint: Path, text: str, dtype: torch.dtype
) -> None:
    model = load_model(checkpoint).to(dtype)
    (checkpoint / "model.safetensors").unlink()
    with quiet_transformers():
        model.save_pretrained(checkpoint, max_shard_size="100KB")
    assert len(list(checkpoint.glob("*.safetensors"))) > 1

    manifest = import_checkpoint(home, FP32, checkpoint, text=text).manifest

    assert manifest.export.parity.ratio < 10


def test_import_checkpoint_bounds_the_length_of_long_models(
    home: Home, tmp_path: Path, text: str
) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "long", family="llama", max_model_len=10_000)

    assert import_checkpoint(home, FP32, checkpoint, text=text).manifest.max_model_len == 4096


def test_import_prints_the_version_as_json(home: Home, checkpoint: Path, text: str) -> None:
    options = ["--home", str(home.root), "--text", text, "--name", "mine", "--precision", "int8"]
    overrides = ["--set", "export.max_int8_loss_increase=1.0", "--set", "export.cache=fp32"]

    result = CliRunner().invoke(app, ["import", str(checkpoint), *options, *overrides, "--json"])

    printed = json.loads(result.stdout)
    assert printed["model_version"].startswith("mine:v")
    assert (printed["family"], printed["weights"]) == ("llama", "int8")


@pytest.mark.slow
def test_import_of_auto_precision_measures_all_and_keeps_one_that_passes(
    home: Home, checkpoint: Path, text: str
) -> None:
    options = ["--home", str(home.root), "--text", text, "--precision", "auto", "--json"]

    printed = json.loads(CliRunner().invoke(app, ["import", str(checkpoint), *options]).stdout)

    rows = {(row["weights"], row["block_size"], row["cache"]): row for row in printed["precisions"]}
    assert {weights for weights, *_ in rows} == {"fp32", "int8", "int4"}
    assert all(row["tokens_per_second"] for row in rows.values() if not row["refusal"])
    kept = rows[printed["weights"], printed["block_size"], printed["cache"]]
    assert kept["refusal"] is None


def test_import_measures_on_python_docs_without_a_text(home: Home, checkpoint: Path) -> None:
    manifest = import_checkpoint(home, FP32, checkpoint).manifest

    assert manifest.export.validation_tokens == 8 * 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "is no folder"),
        (lambda folder: (folder / "config.json").unlink(), r"config\.json is missing"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
        (
            lambda folder: (folder / "chat_template.jinja").write_text("{% if %}"),
            "the chat template does not compile",
        ),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "holds pickled weights",
        ),
        (
            lambda folder: save_file(
                {name: tensor[:1] for name, tensor in load(folder).items()},
                folder / "model.safetensors",
            ),
            "must have shape",
        ),
    ],
)
def test_import_refuses_what_is_no_checkpoint(
    home: Home, checkpoint: Path, text: str, change: object, message: str
) -> None:
    change(checkpoint)

    with pytest.raises(ArtifactError, match=message):
        import_checkpoint(home, FP32, checkpoint, text=text)
    assert Registry(home).list() == []


def test_import_names_an_architecture_that_it_cannot_take_and_all_that_it_can(
    home: Home, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint / "config.json"
    config = json.loads(path.read_text("utf-8")) | {"architectures": ["MambaForCausalLM"]}
    path.write_text(json.dumps(config), encoding="utf-8")

    with pytest.raises(SystemExit) as ended:
        main(["import", str(checkpoint), "--home", str(home.root)])

    said = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == ArtifactError.exit_code
    assert "MambaForCausalLM cannot be exported" in said
    assert all(name in said for name in FAMILIES)


def load(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_import_refuses_a_text_that_is_too_short(
    home: Home, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "short.txt").write_text("short", encoding="utf-8")

    with pytest.raises(DataError, match="no text has the 65 tokens"):
        import_checkpoint(home, FP32, checkpoint, text=str(tmp_path / "short.txt"))


def test_import_names_the_option_of_a_missing_text(home: Home, checkpoint: Path) -> None:
    with pytest.raises(DataError, match=r"^--text: /nowhere\.txt does not exist"):
        import_checkpoint(home, FP32, checkpoint, text="/nowhere.txt")


def test_import_refuses_an_unknown_precision_with_exit_code_2(
    home: Home, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["import", str(checkpoint), "--home", str(home.root), "--precision", "fp8"])

    assert ended.value.code == ConfigError.exit_code == 2
    assert "export.precision" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("SmolLM2-135M", "smollm2-135m"),
        ("My model (new)", "my-model-new"),
        ("___", "imported"),
        ("x" * 80, "x" * 63),
    ],
)
def test_name_of_a_folder_is_one_that_the_store_takes(folder: str, name: str) -> None:
    assert name_of(Path(folder)) == name
