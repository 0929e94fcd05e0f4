"""Limits and threads of the engine: the table [engine] of a run."""

import os
from typing import Literal

import psutil
from pydantic import Field, model_validator

from everloop.settings import Config


class EngineConfig(Config):
    """What a loaded model version may use of the machine."""

    max_num_seqs: int = Field(
        32,
        ge=1,
        le=1024,
        description="sequences that run at once; each reserves a cache slot. Absent: 32, or fewer "
        "where these and the weights would take too much of the free memory",
    )
    max_model_len: int | None = Field(
        None,
        ge=64,
        description="tokens of prompt and answer that are served; absent: what the version takes, "
        "or fewer where memory is short and max_num_seqs is absent, too",
    )
    max_num_batched_tokens: int = Field(
        256, ge=1, description="new tokens of one step: bounds what a long prompt delays others by"
    )
    max_queue: int = Field(256, ge=1, description="waiting requests; one more is refused")
    max_slowdown: float = Field(
        2.0,
        gt=1,
        description="a token of a running answer may take this many times its usual time while "
        "prompts are read; more reads prompts faster",
    )
    speculation: Literal["auto", "on", "off"] = Field(
        "auto",
        description="draft tokens where that was measured to give more of them; auto: only if the "
        "answers stay the same, which is measured where weights or cache are quantized",
    )
    max_draft_tokens: int = Field(
        8, ge=1, le=64, description="tokens that are drafted for one answer in one step"
    )
    wide_steps: Literal["auto", "off"] = Field(
        "auto",
        description="auto: steps of many tokens multiply quantized weights in fp32 where that was "
        "measured to be faster and memory allows; off: the last bits of an answer depend less on "
        "what else is running",
    )
    num_threads: int | None = Field(None, ge=1, description="None for the number of cores")
    allow_spinning: bool = Field(
        False, description="threads that wait burn their core: only on a machine of one's own"
    )
    max_memory_bytes: int | None = Field(
        None, ge=1, description="of weights and cache; None for what the machine has free"
    )

    @model_validator(mode="after")
    def _check_budget(self) -> "EngineConfig":
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) must be at least "
                f"max_num_seqs ({self.max_num_seqs}), so that every sequence can decode"
            )
        return self

    @property
    def threads(self) -> int:
        """Threads of the session: as set, else the physical cores this process may use."""
        if self.num_threads:
            return self.num_threads
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        physical = psutil.cpu_count(logical=False) or os.cpu_count() or 1
        return min(physical, allowed or physical)

    @property
    def memory_limit_bytes(self) -> int:
        """Memory for weights and cache: as set, else what is free now."""
        return self.max_memory_bytes or int(psutil.virtual_memory().available)
