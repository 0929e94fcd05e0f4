"""The tables [model], [pretrain] and [sft] of a run's TOML: what to train, and for how long.

Plain settings without torch, so that a command can refuse a wrong key before it loads anything.
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from everloop.settings import Config


class ModelConfig(Config):
    """[model]: one dial for the size; width, depth and heads follow from it."""

    size: Literal["1m", "3m", "10m", "30m", "100m"] = Field(
        "3m", description="parameters inside the layers; the embedding table comes on top"
    )
    context_length: int = Field(
        256, ge=16, le=32_768, description="tokens that the model sees at once, prompt and answer"
    )
    rope_theta: float = Field(
        10_000.0, gt=0, description="base of the rotary position angles; larger for long contexts"
    )


class OptimizerConfig(Config):
    """What pre-training and fine-tuning share: budget, rates, batch, stopping, threads.

    A run ends at the first of the given budgets; without any, after a few minutes.
    """

    max_steps: int | None = Field(None, ge=1, description="budget: optimizer steps")
    minutes: float | None = Field(
        None, gt=0, description="budget: wall-clock minutes, evaluation and saving included"
    )
    device_batch_size: int = Field(
        8, ge=1, description="sequences that go through the model at once; memory grows with it"
    )
    grad_accum_steps: int = Field(1, ge=1, description="batches whose gradients make one step")
    muon_learning_rate: float | None = Field(
        None, gt=0, description="for the matrices inside layers; derived from the size if absent"
    )
    adamw_learning_rate: float | None = Field(
        None, gt=0, description="for embeddings, head and norms; derived from the size if absent"
    )
    weight_decay: float = Field(0.1, ge=0, description="for the matrices inside layers")
    warmup_steps: int = Field(20, ge=0, description="steps until the full learning rate")
    final_learning_rate_ratio: float = Field(
        0.05, ge=0, le=1, description="where the cosine ends, as a share of the full learning rate"
    )
    grad_clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    eval_every: int = Field(100, ge=1, description="steps between validations and saved states")
    log_every: int = Field(10, ge=1, description="steps between lines of history.jsonl")
    patience: int = Field(
        5, ge=1, description="validations without a better loss after which training stops"
    )
    seed: int = Field(1337, ge=0, le=2**32 - 1, description="of weights and sampling")
    num_threads: int | None = Field(
        None, ge=1, description="CPU threads; all cores if absent, 1 beside a live server"
    )


class PretrainConfig(OptimizerConfig):
    """[pretrain]: from random weights to a language model, on packed token windows."""

    eval_windows: int = Field(
        64, ge=1, description="validation windows per validation, spread over the whole split"
    )

    @model_validator(mode="before")
    @classmethod
    def _default_budget(cls, values: Any) -> Any:
        return _with_budget(values, {"minutes": 2.0})


class SftConfig(OptimizerConfig):
    """[sft]: fine-tuning on conversations (loss on the answers) and replayed texts."""

    epochs: float | None = Field(None, gt=0, description="budget: passes over the training rows")
    grad_accum_steps: int = Field(4, ge=1, description="batches whose gradients make one step")
    eval_every: int = Field(25, ge=1, description="steps between validations and saved states")
    patience: int = Field(
        3, ge=1, description="validations without a better loss after which training stops"
    )
    eval_rows: int = Field(256, ge=1, description="validation rows per validation, at most")

    @model_validator(mode="before")
    @classmethod
    def _default_budget(cls, values: Any) -> Any:
        return _with_budget(values, {"minutes": 1.0})


def _with_budget(values: Any, default: dict[str, float]) -> Any:
    """A run without any budget gets the default; a given one is never cut short by it."""
    is_given = isinstance(values, dict) and any(
        values.get(key) is not None for key in ("max_steps", "minutes", "epochs")
    )
    return values if is_given or not isinstance(values, dict) else {**values, **default}
