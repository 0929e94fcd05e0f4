"""The manifest of a model version: training writes it, the engine reads it, the loop traces it.

A model version is an immutable folder: model.onnx, model.onnx.data, wide.onnx where the weights are
quantized, tokenizer.json, tokenizer_config.json, chat_template.jinja, golden.json, manifest.json.
The manifest holds the SHA-256 of every other file.
"""

import hashlib
import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from everloop import wide_graph
from everloop.errors import ArtifactError
from everloop.sampling_defaults import SamplingDefaults

FILE_NAME = "manifest.json"


class _Part(BaseModel):
    # A graph that is broken may have a loss that is no number, which is to be told, too.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class StateTensor(_Part):
    """One tensor of per-sequence state that the engine owns and the graph updates in place.

    Attributes:
        shape: of one slot, with `capacity` for the axis whose length the engine chooses (tokens).
        kind: `kv` grows with the sequence; `recurrent` has a fixed size.
    """

    input: str
    output: str
    kind: Literal["kv", "recurrent"]
    shape: tuple[int | Literal["capacity"], ...]
    dtype: Literal["float32", "int8"]

    @property
    def bytes_per_token(self) -> int:
        """What one token of one sequence adds; 0 for state of a fixed size."""
        if self.kind != "kv":
            return 0
        width = math.prod(axis for axis in self.shape if isinstance(axis, int))
        return width * (4 if self.dtype == "float32" else 1)


class SpecialTokens(_Part):
    """Token ids that end a generation or pad a batch."""

    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int


class Divergence(_Part):
    """How far a precision's next tokens lie from those of fp32 weights with an fp32 cache.

    Intervals are 95 % of the mean over windows of text; of one window there is none.

    Attributes:
        tokens: that were compared.
        mean_kl: Kullback-Leibler divergence from fp32 to this precision, nats per token.
        p99_kl: of single tokens, the 99th percentile.
        top_1_agreement: share of tokens after which the likeliest one is the same.
        equal_answers: share of greedy answers to chat prompts that are the same to their last
            token; absent for a model without a chat template.
    """

    tokens: int
    mean_kl: float
    mean_kl_interval: tuple[float, float] | None
    p99_kl: float
    top_1_agreement: float
    top_1_interval: tuple[float, float] | None
    equal_answers: float | None = None


class PrecisionReport(_Part):
    """What one precision of weights and cache costs and gives, against fp32 for both.

    Attributes:
        val_loss: nats per token over validation windows, through the cache. Precisions are measured
            on as many of the same windows as the decision about them needs.
        val_loss_interval: 95 % of it over the windows; absent in versions of before.
        divergence: from fp32; absent for fp32 itself and in versions of before.
        weight_loss_increase: of these weights with an fp32 cache, as a share of the loss of fp32.
        cache_loss_increase: of this cache, as a share of the loss of the same weights without it.
        weights_bytes: of the graph and its tensors.
        cache_bytes_per_token: of one sequence.
        tokens_per_second: decoding, by the number of rows that ran together; empty when nothing
            had to be chosen by speed.
        prefill_tokens_per_second: of one prompt, in the middle of it.
        refusal: which limit it exceeds; None when it qualifies.
    """

    weights: Literal["fp32", "int8", "int4"]
    block_size: int | None
    cache: Literal["fp32", "int8"]
    val_loss: float
    val_loss_interval: tuple[float, float] | None = None
    divergence: Divergence | None = None
    weight_loss_increase: float
    cache_loss_increase: float
    weights_bytes: int
    cache_bytes_per_token: int
    tokens_per_second: dict[int, float] = {}
    prefill_tokens_per_second: float | None = None
    refusal: str | None = None


class ParityReport(_Part):
    """How far the fp32 graph is from the checkpoint in float64, over ragged batches.

    Distances are root mean squares over the vocabulary, in logits, at the position where the graph
    is furthest away for its allowance.

    Attributes:
        ratio: of the two distances.
        graph_distance: of the graph.
        torch_distance: of torch's own float32 at that position or on average, whichever is more.
    """

    ratio: float
    graph_distance: float
    torch_distance: float


class ExportReport(_Part):
    """What the export measured. Losses are nats per token over the same validation windows."""

    parity: ParityReport | None = None  # absent in versions of before
    max_abs_logit_diff: float | None = None  # fp32 graph against torch; of versions of before only
    val_loss_fp32: float
    val_loss: float  # of this version's own precision
    val_bpb: float  # bits per byte, of this version
    validation_tokens: int
    validation_text: str | None = None  # its name: losses on different texts are not compared
    precisions: tuple[PrecisionReport, ...] = ()  # all that were measured, this one among them


class DatasetRef(_Part):
    """A dataset version that the weights have seen."""

    id: str
    merkle_root: str
    rows: int
    use: Literal["pretrain", "sft", "kto", "dpo", "feedback", "replay"]


class Lineage(_Part):
    """Where the weights come from."""

    checkpoint_sha256: str
    datasets: tuple[DatasetRef, ...]
    parent: str | None  # tag of the version that this one was trained from
    config: dict[str, str]
    seed: int
    packages: dict[str, str]


class Manifest(_Part):
    """Everything that is known about a model version.

    Attributes:
        sampling: where a request asks for neither temperature nor top_p.
        licence: of the weights, where it is known.
        settings: the keys of [export] that were given; versions trained from this one inherit them.
    """

    schema_version: Literal[1] = 1
    name: str
    version: str
    family: str  # Hugging Face model_type
    architecture: str
    parameters: int
    vocab_size: int
    hidden_size: int
    num_attention_heads: int | None = None  # of queries; absent in versions of before, and of RNNs
    max_model_len: int  # tokens of prompt and answer together
    max_query_len: int  # tokens that one row may add in one step
    special_tokens: SpecialTokens
    state: tuple[StateTensor, ...]
    weight_precision: Literal["fp32", "int8", "int4"]
    block_size: int | None = None  # weights that share a scale; None for fp32
    has_hidden_states: bool = False  # output hidden_states [R, hidden_size], after the final norm
    sampling: SamplingDefaults = SamplingDefaults()
    licence: str | None = None
    settings: dict[str, JsonValue] = {}
    export: ExportReport
    evaluation: dict[str, float]
    lineage: Lineage
    files: dict[str, str]  # file name -> SHA-256

    @property
    def tag(self) -> str:
        """`name:version`, as the model store and the API know it."""
        return f"{self.name}:{self.version}"

    @property
    def cache_precision(self) -> Literal["fp32", "int8"]:
        """Precision of the key and value cache."""
        return "int8" if any(tensor.dtype == "int8" for tensor in self.state) else "fp32"

    @property
    def has_wide_graph(self) -> bool:
        """Whether there is a second graph, with fp32 products; not in versions of before."""
        return wide_graph.FILE_NAME in self.files

    @property
    def cache_bytes_per_token(self) -> int:
        """What the cache holds for one token of one sequence."""
        return sum(tensor.bytes_per_token for tensor in self.state)


class GoldenCase(_Part):
    """A prompt with the greedy continuation that every correct load must give.

    Attributes:
        leads: of each token's logit over the next best; absent in older files, where every token
            counts.
    """

    prompt_token_ids: tuple[int, ...]
    completion_token_ids: tuple[int, ...]
    leads: tuple[float, ...] | None = None


class Golden(_Part):
    """The content of golden.json.

    Attributes:
        clear_lead: a token that leads by less may come out otherwise on another processor; what
            follows it is then another text and is not compared.
    """

    cases: tuple[GoldenCase, ...]
    clear_lead: float = 0.0


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a model version without touching the other files.

    Raises:
        ArtifactError: the folder is no model version, or one of another schema.
    """
    path = folder / FILE_NAME
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{folder} is not a model version: {FILE_NAME} is missing. Export one first."
        ) from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            raise ArtifactError(
                f"{path} is damaged: {first['msg']}. Restore it or export the version again."
            ) from error
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(
            f"{path}: {where}: {first['msg']}. Another release wrote this version; export it again."
        ) from error


def verify(folder: Path) -> Manifest:
    """Check every file of a model version against its hash.

    Raises:
        ArtifactError: a file is missing or changed.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError(
                f"{path} is missing from model version {manifest.tag}. Restore it or export again."
            )
        found = sha256_file(path)
        if found != expected:
            raise ArtifactError(
                f"{path} was changed after {manifest.tag} was saved: expected SHA-256 "
                f"{expected[:12]}, found {found[:12]}. Restore it or export again."
            )
    return manifest
