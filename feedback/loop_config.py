"""Table [loop]: what one round spends, how its candidate is measured, and what must fit to it."""

import math

from pydantic import Field

from everloop.errors import ConfigError
from everloop.settings import Config, RunFile
from feedback.dataset import FeedbackConfig
from feedback.gate import GateConfig
from feedback.trigger import TriggerConfig


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


def check_loop(run: RunFile) -> None:
    """Refuse tables that together make rounds which nothing can come of.

    The split is by question, so the rows that are held out are known on average only.

    Raises:
        ConfigError: a key is wrong; or the trigger starts a round for fewer rows than the gate
            needs held out or tuning needs to learn from, or the gate wants more windows than are
            measured.
    """
    feedback, gate = run.table("feedback", FeedbackConfig), run.table("gate", GateConfig)
    windows = run.table("loop", LoopConfig).validation_windows
    if windows < gate.min_windows:
        raise ConfigError(
            f"{run.name}: loop.validation_windows = {windows} is less than gate.min_windows = "
            f"{gate.min_windows}, so that no candidate could be judged. Raise it."
        )
    share = feedback.holdout_share
    if not share:
        raise ConfigError(
            f"{run.name}: feedback.holdout_share = 0 holds nothing out, so that no candidate could "
            "be judged. Raise it."
        )
    trigger, rows = _earliest(run.table("trigger", TriggerConfig))
    wanted = {
        "gate.min_rows": gate.min_rows,
        "feedback.min_holdout_rows": feedback.min_holdout_rows,
    }
    key = max(wanted, key=lambda name: wanted[name])
    least_held, least_learnt = _least(wanted[key], share), _least(feedback.min_rows, 1 - share)
    starts = f"{run.name}: {trigger} = {rows} starts a round in which about"
    if rows < least_held:
        raise ConfigError(
            f"{starts} {rows * share:.0f} rows are held out (feedback.holdout_share = {share:g}), "
            f"and the gate decides nothing below {wanted[key]} ({key}). Set {trigger} to "
            f"{least_held} or more, or change the others."
        )
    if rows < least_learnt:
        raise ConfigError(
            f"{starts} {rows * (1 - share):.0f} rows are left to learn from "
            f"(feedback.holdout_share = {share:g}), at least {feedback.min_rows} are wanted "
            f"(feedback.min_rows). Set {trigger} to {least_learnt} or more, or change the others."
        )


def _earliest(config: TriggerConfig) -> tuple[str, int]:
    """The key that starts a round for the fewest rows, and how many these are."""
    counts = {
        "trigger.min_corrections": config.min_corrections,
        "trigger.min_new_feedback": config.min_new_feedback,
    }
    return min(counts.items(), key=lambda item: item[1])


def _least(wanted: int, share: float) -> int:
    """Rows of which a share is as many as wanted."""
    return math.ceil(wanted / share - 1e-9)
