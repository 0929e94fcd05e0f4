"""Checkpoints from elsewhere: moved to other tokens, or refused by name."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from everloop.errors import ArtifactError, ConfigError
from tests.tiny_model import make_tiny_checkpoint
from tests.training.preferences import rated
from training.checkpoint import SIDECAR
from training.config import KtoConfig, ModelConfig, PretrainConfig, SftConfig
from training.pretrain import pretrain
from training.pretrained import load_network
from training.tokenizer import load_tokenizer
from training.tokens import TokenizerFolder
from training.transfer import load_for_vocabulary
from training.tune import fine_tune


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def foreign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with another vocabulary: one token per byte."""
    return make_tiny_checkpoint(tmp_path_factory.mktemp("foreign"), is_tied=request.param)


def test_a_shared_tokenizer_keeps_all_weights(tiny_checkpoint: Path, tiny_tokenizer: Path) -> None:
    moved = load_for_vocabulary(tiny_checkpoint, TokenizerFolder.read(tiny_tokenizer), 64)
    before = load_network(tiny_checkpoint).state_dict()
    assert all(torch.equal(weight, before[name]) for name, weight in moved.state_dict().items())


def test_shared_tokens_take_their_embeddings_along(foreign: Path, tiny_tokenizer: Path) -> None:
    folder = TokenizerFolder.read(tiny_tokenizer)
    moved, before = load_for_vocabulary(foreign, folder, 64), load_network(foreign)
    old, new = load_tokenizer(foreign).get_vocab(), load_tokenizer(tiny_tokenizer).get_vocab()
    for get in ("get_input_embeddings", "get_output_embeddings"):
        table, source = getattr(moved, get)().weight, getattr(before, get)().weight
        assert len(table) == folder.vocab_size == len(new)
        assert torch.equal(table[new["a"]], source[old["a"]])
        unknown = next(token for token in new if token not in old)
        torch.testing.assert_close(table[new[unknown]], source.mean(dim=0))
    layer = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(moved.state_dict()[layer], before.state_dict()[layer])
    assert moved.config.eos_token_id == list(folder.special.eos)


def test_pretrain_goes_on_from_a_foreign_checkpoint(
    foreign: Path, tiny_shards: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    config = PretrainConfig(
        max_steps=6, device_batch_size=4, eval_every=3, warmup_steps=1, eval_windows=4,
        num_threads=1,
    )  # fmt: skip
    checkpoint = pretrain(
        tiny_shards, tiny_tokenizer, tmp_path / "run", ModelConfig(context_length=32), config,
        parent=foreign,
    )  # fmt: skip
    history = (tmp_path / "run" / "history.jsonl").read_text(encoding="utf-8").splitlines()
    assert checkpoint.metrics["val_loss"] < json.loads(history[0])["val_loss"] - 0.5
    assert checkpoint.record.config["parent_sha256"]


def test_a_context_longer_than_the_parents_is_refused(
    foreign: Path, tiny_shards: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"context_length is 256, .* has 128 positions"):
        pretrain(
            tiny_shards, tiny_tokenizer, tmp_path / "run", ModelConfig(context_length=256),
            PretrainConfig(max_steps=1), parent=foreign,
        )  # fmt: skip


def test_a_vocabulary_larger_than_the_embedding_is_refused(
    tiny_checkpoint: Path, foreign: Path, tmp_path: Path
) -> None:
    mixed = shutil.copytree(foreign, tmp_path / "mixed")
    shutil.copyfile(tiny_checkpoint / "tokenizer.json", mixed / "tokenizer.json")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json has 3\d\d tokens, .* for 259"):
        fine_tune(
            mixed, rated("train", 6), rated("validation", 3), tmp_path / "run",
            KtoConfig(max_steps=1),
        )  # fmt: skip


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config = BertConfig(vocab_size=300, num_attention_heads=2, **sizes)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    with pytest.raises(
        ArtifactError, match="holds a BertForMaskedLM model; training needs a causal"
    ):
        load_network(tmp_path)


def test_weights_of_another_shape_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "changed")
    (folder / SIDECAR).unlink()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["num_hidden_layers"] += 1
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"cannot be loaded as a qwen3 model .*layer_types"):
        load_network(folder)
    config["layer_types"].append("full_attention")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"the weights lack model\.layers\.4\..* 10 more"):
        load_network(folder)


def test_lora_on_a_recurrent_network_is_refused(
    tiny_recurrent_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="a recurrent network has none"):
        fine_tune(
            tiny_recurrent_checkpoint, rated("train", 6), rated("validation", 3), tmp_path / "run",
            KtoConfig(max_steps=1, lora_rank=4),
        )  # fmt: skip


def test_lora_is_merged_into_an_ordinary_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from tests.training.test_sft import _rows

    config = SftConfig(
        max_steps=4, device_batch_size=4, grad_accum_steps=1, eval_every=2, lora_rank=4,
        adamw_learning_rate=0.02, warmup_steps=1, num_threads=1,
    )  # fmt: skip
    checkpoint = fine_tune(
        tiny_checkpoint, _rows("train", 8), _rows("validation", 2), tmp_path / "run", config
    )
    before, after = load_network(tiny_checkpoint), load_network(checkpoint.path)
    name = "model.layers.0.mlp.up_proj.weight"
    assert before.state_dict().keys() == after.state_dict().keys()
    assert not torch.equal(before.state_dict()[name], after.state_dict()[name])
    embedding = "model.embed_tokens.weight"
    assert torch.equal(before.state_dict()[embedding], after.state_dict()[embedding])
