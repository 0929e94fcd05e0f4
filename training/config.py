"""The tables [model], [pretrain], [sft], [kto] and [dpo] of a run's TOML: what to train, how long.

Plain settings without torch, so that a command can refuse a wrong key before it loads anything.
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from everloop.settings import Config

Size = Literal["1m", "3m", "10m", "30m", "100m", "350m", "1b"]
Kind = Literal["transformer", "lstm", "gru"]
OptimizerName = Literal["muon", "adamw", "sgd"]

# What does not decide the weights: a run may go on when it is changed.
REPORTING = frozenset({"tensorboard", "mlflow_tracking_uri"})


class ModelConfig(Config):
    """[model]: one dial for the size; width, depth and heads follow from it."""

    kind: Kind = Field("transformer", description="transformer (Qwen3's layers), lstm or gru")
    size: Size = Field(
        "3m", description="parameters inside the layers; the embedding table comes on top"
    )
    context_length: int = Field(
        256, ge=16, le=32_768, description="tokens that the model sees at once, prompt and answer"
    )
    rope_theta: float = Field(
        10_000.0, gt=0, description="base of the rotary position angles; larger for long contexts"
    )


class OptimizerConfig(Config):
    """What all methods share: budget, optimizer, schedule, regularisation, stopping, machine.

    A run ends at the first of the given budgets; without any, after a few minutes.
    """

    max_steps: int | None = Field(None, ge=1, description="budget: optimizer steps")
    max_train_tokens: int | None = Field(None, ge=1, description="budget: tokens, rounded up")
    minutes: float | None = Field(
        None, gt=0, description="budget: wall-clock minutes, evaluation and saving included"
    )
    device_batch_size: int = Field(
        8, ge=1, description="sequences that go through the model at once; memory grows with it"
    )
    grad_accum_steps: int = Field(1, ge=1, description="batches whose gradients make one step")
    optimizer: OptimizerName | None = Field(
        None,
        description="muon (with adamw for the rest), adamw or sgd; absent: muon, with LoRA and for "
        "weights from elsewhere adamw",
    )
    muon_learning_rate: float | None = Field(
        None, gt=0, description="for the matrices inside layers; derived from the size if absent"
    )
    adamw_learning_rate: float | None = Field(
        None, gt=0, description="muon: for embeddings, head and norms; derived if absent"
    )
    sgd_learning_rate: float | None = Field(None, gt=0, description="derived if absent")
    weight_decay: float = Field(0.1, ge=0, description="for the matrices inside layers alone")
    schedule: Literal["cosine", "linear", "wsd"] = Field(
        "cosine", description="of the learning rate; wsd stays full and falls at the end"
    )
    warmup_steps: int = Field(
        20,
        ge=0,
        description="steps until the full learning rate; absent: a tenth of a run that tunes "
        "weights from elsewhere",
    )
    decay_share: float = Field(
        0.2, gt=0, le=1, description="wsd: share of the budget in which the rate falls"
    )
    final_learning_rate_ratio: float = Field(
        0.05, ge=0, le=1, description="where the rate ends, as a share of the full one"
    )
    grad_clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="of attention weights and of what each layer adds"
    )
    eval_every: int = Field(100, ge=1, description="steps between validations and saved states")
    log_every: int = Field(10, ge=1, description="steps between lines of history.jsonl")
    patience: int = Field(
        5, ge=1, description="validations without a better loss after which training stops"
    )
    seed: int = Field(1337, ge=0, le=2**32 - 1, description="of weights and sampling")
    num_threads: int | None = Field(
        None, ge=1, description="CPU threads; all cores if absent, 1 beside a live server"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: a GPU if there is one"
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp", description="how several processes of torchrun share the work; fsdp on GPUs alone"
    )
    tensorboard: bool = Field(False, description="write event files into the run's folder")
    mlflow_tracking_uri: str | None = Field(None, description="log the run to this MLflow server")

    @property
    def optimizer_name(self) -> OptimizerName:
        """The optimizer in force."""
        return self.optimizer or "muon"

    @model_validator(mode="after")
    def _rate_is_used(self) -> "OptimizerConfig":
        used = {"muon": ("muon", "adamw"), "adamw": ("adamw",), "sgd": ("sgd",)}
        for name in ("muon", "adamw", "sgd"):
            is_set = getattr(self, f"{name}_learning_rate") is not None
            if is_set and name not in used[self.optimizer_name]:
                raise ValueError(
                    f"{name}_learning_rate is set, but the optimizer is {self.optimizer_name}"
                )
        return self


class PretrainConfig(OptimizerConfig):
    """[pretrain]: from random weights, or a given checkpoint, on packed token windows."""

    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of the target spread over the vocabulary"
    )
    mask_documents: bool | None = Field(
        None,
        description="a window's documents never see one another; absent: in Transformers, where "
        "it costs nothing (it makes recurrent networks 3.6 times as slow)",
    )
    eval_windows: int = Field(
        64, ge=1, description="validation windows per validation, spread over the whole split"
    )

    @model_validator(mode="before")
    @classmethod
    def _default_budget(cls, values: Any) -> Any:
        return _with_budget(values, {"minutes": 2.0})


class TuneConfig(OptimizerConfig):
    """What the methods that start from a checkpoint share: epochs and LoRA."""

    epochs: float | None = Field(None, gt=0, description="budget: passes over the training rows")
    grad_accum_steps: int = Field(4, ge=1, description="batches whose gradients make one step")
    eval_every: int = Field(25, ge=1, description="steps between validations and saved states")
    patience: int = Field(
        3, ge=1, description="validations without a better loss after which training stops"
    )
    eval_rows: int = Field(256, ge=1, description="validation rows per validation, at most")
    lora_rank: int | None = Field(
        None, ge=1, description="train low-rank additions instead of all weights; merged at the end"
    )
    lora_alpha: int = Field(32, ge=1, description="the additions count alpha / rank times")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="before the low-rank additions")

    @property
    def optimizer_name(self) -> OptimizerName:
        """The optimizer in force."""
        return self.optimizer or ("adamw" if self.lora_rank else "muon")

    @model_validator(mode="before")
    @classmethod
    def _default_budget(cls, values: Any) -> Any:
        return _with_budget(values, {"minutes": 1.0})


class SftConfig(TuneConfig):
    """[sft]: fine-tuning on conversations (loss on the answers) and replayed texts."""

    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of the target spread over the vocabulary"
    )
    packing: bool = Field(False, description="put several rows into one sequence, kept apart")


class PreferenceConfig(TuneConfig):
    """What KTO and DPO share."""

    beta: float = Field(
        0.1, gt=0, description="how strongly the model is held to the one that it starts from"
    )


class KtoConfig(PreferenceConfig):
    """[kto]: tuning on answers that were approved or refused, without a counterpart."""

    desirable_weight: float = Field(1.0, gt=0, description="of approved answers")
    undesirable_weight: float | None = Field(
        None, gt=0, description="of refused answers; absent: evens out their number"
    )

    @model_validator(mode="after")
    def _has_partners(self) -> "KtoConfig":
        if self.device_batch_size < 2:
            raise ValueError(
                "KTO compares the rows of a batch: device_batch_size must be 2 or more"
            )
        return self


class DpoConfig(PreferenceConfig):
    """[dpo]: tuning on pairs of an approved and a refused answer to the same question."""


def _with_budget(values: Any, default: dict[str, float]) -> Any:
    """A run without any budget gets the default; a given one is never cut short by it."""
    budgets = ("max_steps", "max_train_tokens", "minutes", "epochs")
    is_given = isinstance(values, dict) and any(values.get(key) is not None for key in budgets)
    return values if is_given or not isinstance(values, dict) else {**values, **default}
