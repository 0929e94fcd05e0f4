"""What pre-training and fine-tuning do alike on top of transformers' Trainer.

Muon with AdamW, a learning rate that follows the budget, bf16 where the CPU computes in it, a stop
when the loss is no number any more. The loop itself is the Trainer's.
"""

import logging
import math
from contextlib import ExitStack
from typing import Any, cast

import torch
from rich.progress import Progress
from torch.optim.lr_scheduler import LambdaLR
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback

from everloop.errors import EverloopError
from training.callbacks import BudgetCallback, HistoryCallback, ProgressCallback
from training.config import OptimizerConfig
from training.cpu import autocast
from training.optimizer import MuonAdamW, split_parameters
from training.run_folder import RunFolder
from training.schedule import Budget, learning_rate_scale

logger = logging.getLogger(__name__)


class RecipeMixin:
    """Overrides of a Trainer; set `recipe` before training starts.

    Stands before a Trainer class in the bases of a subclass.
    """

    model: Any
    optimizer: Any
    lr_scheduler: Any
    state: Any
    recipe: OptimizerConfig
    rates: tuple[float, float]
    budget: Budget
    tokens_per_step: float

    def create_optimizer(self, model: Any = None) -> MuonAdamW:
        """Muon for matrices inside layers, AdamW for the rest."""
        if self.optimizer is None:
            matrices, others = split_parameters(self.model if model is None else model)
            self.optimizer = MuonAdamW(
                matrices,
                others,
                muon_learning_rate=self.rates[0],
                adamw_learning_rate=self.rates[1],
                weight_decay=self.recipe.weight_decay,
            )
        return self.optimizer

    def create_scheduler(
        self,
        num_training_steps: int,  # noqa: ARG002 - the budget knows better
        optimizer: Any = None,
    ) -> LambdaLR:
        """Warm-up, then a cosine over the budget, be it steps or seconds."""

        def scale(step: int) -> float:
            return learning_rate_scale(
                step,
                self.budget.fraction(step),
                warmup_steps=self.recipe.warmup_steps,
                final_ratio=self.recipe.final_learning_rate_ratio,
            )

        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, scale)
        return self.lr_scheduler

    def compute_loss_context_manager(self) -> ExitStack:
        """Compute in bf16 where the CPU does.

        Not through the Trainer's own switch: that one copies all logits to fp32 once more.
        """
        stack: ExitStack = super().compute_loss_context_manager()  # type: ignore[misc]
        stack.enter_context(autocast())
        return stack

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The model's own loss, without a cache for generation.

        For TRL's trainer too: its loss projects onto the vocabulary in tiles, which saves memory on
        GPUs, but on a CPU its backward pass takes several times as long as the whole head (330 ms
        instead of 90 ms for 4,096 tokens).
        """
        return Trainer.compute_loss(
            cast(Trainer, self), model, {**inputs, "use_cache": False}, *args, **kwargs
        )

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Train on one batch.

        Raises:
            EverloopError: the loss is not finite.
        """
        loss: torch.Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        if not math.isfinite(loss.item()):
            raise EverloopError(
                f"training: the loss became {loss.item()} at step {self.state.global_step + 1}. "
                "Lower muon_learning_rate or adamw_learning_rate and start a new run."
            )
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add seconds and tokens to every entry of the history."""
        logs["seconds"] = round(self.budget.elapsed, 3)
        logs["tokens"] = round(self.state.global_step * self.tokens_per_step)
        super().log(logs, start_time)  # type: ignore[misc]

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """A tied head is not in the file, rightly; everything else is worth its warning."""
        tied = {"lm_head.weight"} if self.model.config.tie_word_embeddings else set()
        load_result.missing_keys[:] = [key for key in load_result.missing_keys if key not in tied]
        super()._issue_warnings_after_load(load_result)  # type: ignore[misc]


def trainer_arguments(config: OptimizerConfig, run: RunFolder, budget: Budget) -> dict[str, Any]:
    """The arguments that both trainers share; validation and saving go together."""
    return {
        "output_dir": str(run.trainer),
        "use_cpu": True,
        "bf16": False,
        "max_steps": budget.trainer_steps,
        "per_device_train_batch_size": config.device_batch_size,
        "per_device_eval_batch_size": config.device_batch_size,
        "gradient_accumulation_steps": config.grad_accum_steps,
        "max_grad_norm": config.grad_clip,
        "eval_strategy": "steps",
        "eval_steps": config.eval_every,
        "eval_on_start": run.last_state is None,
        "save_strategy": "steps",
        "save_steps": config.eval_every,
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "prediction_loss_only": True,
        "restore_callback_states_from_checkpoint": True,
        "logging_steps": config.log_every,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": config.seed,
        "data_seed": config.seed,
    }


def prepare(trainer: Any, run: RunFolder, title: str, progress: Progress | None) -> None:
    """Give a trainer its callbacks: budget, early stopping, history and, if asked for, a bar."""
    trainer.remove_callback(PrinterCallback)
    callbacks: list[TrainerCallback] = [
        BudgetCallback(trainer.budget),
        EarlyStoppingCallback(early_stopping_patience=trainer.recipe.patience),
        HistoryCallback(run.history),
    ]
    if progress is not None:
        callbacks.append(ProgressCallback(progress, title, trainer.budget))
    for callback in callbacks:
        trainer.add_callback(callback)


def train(trainer: Any, run: RunFolder) -> dict[str, float]:
    """Train from the start, or from the last saved state; the best weights stand at the end.

    Returns:
        val_loss of the best weights, best_step, steps, tokens, seconds.
    """
    last = run.last_state
    if last is not None:
        logger.info("run=%s resumes from %s", run.path.name, last.name)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    state = trainer.state
    return {
        "val_loss": float(state.best_metric),
        "best_step": float(state.best_global_step or 0),
        "steps": float(state.global_step),
        "tokens": float(round(state.global_step * trainer.tokens_per_step)),
        "seconds": round(trainer.budget.elapsed, 3),
    }
