"""The table [export] of a run's TOML: what a model version is called and what it must prove."""

from typing import Literal

from pydantic import Field

from everloop.sampling_defaults import SamplingDefaults
from everloop.settings import Config


class ExportConfig(Config):
    """[export]: precision of the graph, its limits, and the errors that refuse it."""

    name: str = Field(
        "everloop",
        pattern=r"^[a-z0-9]([-_.a-z0-9]{0,61}[a-z0-9])?$",
        description="name of the model; clients may ask for it without a version",
    )
    precision: Literal["fp32", "int8", "int4", "auto"] = Field(
        "int8", description="of the weights; auto: the fastest that keeps its limit"
    )
    block_size: Literal[32, 64] | None = Field(
        None,
        description="weights that share a scale; absent: 32. With 64, answers of int4 depend on "
        "what else is in the batch",
    )
    cache: Literal["fp32", "int8", "auto"] = Field(
        "auto",
        description="of keys and values; auto: int8 beside quantized weights, if in its limit",
    )
    max_model_len: int | None = Field(
        None, ge=32, description="tokens of prompt and answer; absent: all that the model takes"
    )
    max_query_len: int = Field(
        256, ge=16, le=4096, description="tokens that one row may add in one step of the engine"
    )
    embeddings: bool = Field(
        True, description="give hidden states, too, so that the version can embed texts"
    )
    licence: str | None = Field(
        None, min_length=1, description="of the weights; absent: what their own files name"
    )
    sampling: SamplingDefaults | None = Field(
        None,
        description="where a request asks for neither temperature nor top_p; absent: what the "
        "weights bring",
    )
    max_parity_ratio: float = Field(
        10.0,
        gt=0,
        description="how many times as far from float64 as torch's own float32 the fp32 graph may "
        "be; sound graphs stay below 5, a matrix that is wrong by 1 % is in the hundreds",
    )
    max_kl: float = Field(
        0.02,
        ge=0,
        description="nats per token that the next tokens of a precision may lie away from fp32's "
        "on average: int8 is at 0.002 on open weights, a bad int4 at 0.3",
    )
    min_top_1_agreement: float = Field(
        0.9,
        ge=0,
        le=1,
        description="share of tokens whose likeliest continuation must be fp32's: 0.97 of int8 on "
        "open weights, 0.7 of a bad int4",
    )
    max_int8_loss_increase: float = Field(
        0.01, ge=0, description="share by which int8 weights may raise the validation loss of fp32"
    )
    max_int4_loss_increase: float = Field(
        0.03, ge=0, description="share by which int4 weights may raise the validation loss of fp32"
    )
    max_int8_cache_loss_increase: float = Field(
        0.005, ge=0, description="share by which an int8 cache may raise the loss of its weights"
    )
