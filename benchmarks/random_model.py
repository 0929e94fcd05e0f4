"""The usual model of benchmarks: random weights in SmolLM2-135M's shape, the same for every peer.

Speed does not depend on what weights say, so nothing is fetched. The tokenizer has as many tokens
as the model: whatever the model says has a text, and an event of its own in a stream.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from everloop.errors import ArtifactError
from tests.tiny_model import GOLDEN_PROMPTS, VOCAB_SIZE, make_tiny_checkpoint
from training.export import ExportConfig, export_checkpoint

_BLANKS = ("Ġ", "Ċ")  # how the file writes a space and a line break


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of a Llama."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_model_len: int

    @classmethod
    def read(cls, checkpoint: Path) -> "ModelShape":
        """Take them from the config.json of a Hugging Face folder.

        Raises:
            ArtifactError: it is no Llama, for which alone the peers' files can be written.
        """
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        if config["model_type"] != "llama":
            raise ArtifactError(
                f"{checkpoint} holds a {config['model_type']} model. Give the folder of a llama."
            )
        names = {field.name for field in dataclasses.fields(cls)} - {"max_model_len"}
        sizes = {name: config[name] for name in names}
        return cls(max_model_len=config["max_position_embeddings"], **sizes)

    @property
    def linear_parameters(self) -> int:
        """Weights that every token is multiplied with, the head aside."""
        attention = self.num_attention_heads * self.head_dim
        cache = self.num_key_value_heads * self.head_dim
        per_layer = self.hidden_size * (2 * attention + 2 * cache + 3 * self.intermediate_size)
        return self.num_hidden_layers * per_layer


SMOLLM2_135M = ModelShape(
    vocab_size=49_152,
    hidden_size=576,
    intermediate_size=1_536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    head_dim=64,
    max_model_len=4_096,
)
TINY = ModelShape(
    vocab_size=1_024,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_model_len=4_096,
)


def make_checkpoint(folder: Path, shape: ModelShape) -> Path:
    """Write the Hugging Face folder: the same weights at every call."""
    make_tiny_checkpoint(
        folder,
        family="llama",
        max_model_len=shape.max_model_len,
        vocab_size=shape.vocab_size,
        seed=1234,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        head_dim=shape.head_dim,
        initializer_range=0.02,
    )
    _fill_tokenizer(folder / "tokenizer.json", shape.vocab_size)
    return folder


def export_version(checkpoint: Path, staging: Path, config: ExportConfig) -> Path:
    """Export the random model; give the model version folder inside `staging`."""
    return export_checkpoint(
        checkpoint,
        np.random.default_rng(0).integers(3, VOCAB_SIZE, (2, 33)),
        config=config,
        bytes_per_token=1.0,
        golden_prompts=GOLDEN_PROMPTS,
        evaluation={},
        staging=staging,
    )


def _fill_tokenizer(path: Path, vocab_size: int) -> None:
    """Give every token a whole text: a word to all but the control tokens and ASCII."""
    content = json.loads(path.read_text(encoding="utf-8"))
    kept = {
        token_id: token
        for token, token_id in content["model"]["vocab"].items()
        if token.isascii() or token in _BLANKS
    }
    content["model"]["vocab"] = {
        kept.get(token_id, f"Ġw{token_id}"): token_id for token_id in range(vocab_size)
    }
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
