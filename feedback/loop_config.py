"""Table [loop]: what one round spends, and how its candidate is measured."""

from pydantic import Field

from everloop.settings import Config


class LoopConfig(Config):
    """Table [loop]: what one round spends, and how its candidate is measured."""

    minutes: float | None = Field(
        None, gt=0, description="guard by the clock: ends tuning before its epochs"
    )
    epochs: float = Field(4.0, gt=0, description="passes over feedback and replayed rows")
    eval_every: int = Field(10, ge=1, description="steps between validations while tuning")
    warmup_steps: int = Field(5, ge=0, description="steps until the full learning rate")
    validation_share: float = Field(
        0.15, gt=0, lt=1, description="of the feedback rows, to stop tuning in time"
    )
    num_threads: int | None = Field(
        1, ge=1, description="CPU threads of a round; the live server needs the others"
    )
    validation_windows: int = Field(
        96, ge=16, description="windows of the original validation text that the gate looks at"
    )
    max_answer_tokens: int = Field(96, ge=1, description="longest answer that the gate looks at")
    swap_seconds: float = Field(
        60.0, gt=0, description="how long to wait for a running server to follow a promotion"
    )
    interval_seconds: float = Field(
        30.0, gt=0, description="time between two looks at the feedback by the worker"
    )
    max_retry_seconds: float = Field(
        3600.0, gt=0, description="longest time until a failed round is tried again"
    )

    @property
    def tuning(self) -> dict[str, int | None]:
        """What replaces the settings of the table [sft]."""
        return self.model_dump(include={"eval_every", "warmup_steps", "num_threads"})
