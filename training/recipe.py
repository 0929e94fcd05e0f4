"""What all methods do alike on top of transformers' Trainer.

The optimizer and a learning rate that follows the budget, the number formats of the run, a stop
when the loss diverges, states that are whole or not there. The loop is the Trainer's.
"""

import logging
import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from rich.progress import Progress
from safetensors import SafetensorError
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback

from everloop.errors import EverloopError
from training.callbacks import BudgetCallback, HistoryCallback, ProgressCallback
from training.config import OptimizerConfig
from training.consumption import ConsumptionCallback
from training.cpu import autocast
from training.distributed import (
    device_of,
    is_main_process,
    mean_over_processes,
    world_size,
)
from training.guard import DivergedError, LossGuard
from training.models import LearningRates
from training.numerics import DTYPES, Numerics, settle_numerics
from training.optimizer import make_optimizer
from training.reporters import reporters
from training.run_folder import RunFolder
from training.schedule import Budget, learning_rate_scale
from training.status import StatusCallback
from training.step_speed import SlowStepCallback, step_work
from training.torch_speed import torch_record
from training.validation import ValidationMixin

logger = logging.getLogger(__name__)


class RecipeMixin(ValidationMixin):
    """Overrides of a Trainer; `equip` sets its attributes before training starts.

    Stands before a Trainer class in the bases of a subclass.
    """

    optimizer: Any
    lr_scheduler: Any
    recipe: OptimizerConfig
    rates: LearningRates
    tokens_per_step: float
    guard: LossGuard
    step_loss: float
    accelerator: Any
    numerics = Numerics()  # until the run has settled its own

    def equip(
        self, recipe: OptimizerConfig, rates: LearningRates, budget: Budget, tokens_per_step: float
    ) -> None:
        """Set what the run is to do."""
        self.recipe, self.rates, self.budget = recipe, rates, budget
        self.tokens_per_step = tokens_per_step
        self.guard, self.step_loss = LossGuard(), 0.0

    def create_optimizer(self, model: Any = None) -> Optimizer:
        """The optimizer of the recipe."""
        if self.optimizer is None:
            network = self.model if model is None else model
            muon = DTYPES[self.numerics.muon]
            self.optimizer = make_optimizer(
                network, self.rates, self.recipe.weight_decay, muon_dtype=muon
            )
        return self.optimizer

    def create_scheduler(
        self,
        num_training_steps: int,  # noqa: ARG002 - the budget knows better
        optimizer: Any = None,
    ) -> LambdaLR:
        """Warm-up, then the schedule over the budget, be it steps or seconds."""

        def scale(step: int) -> float:
            return learning_rate_scale(step, self.budget.fraction(step), self.recipe)

        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, scale)
        return self.lr_scheduler

    def compute_loss_context_manager(self) -> ExitStack:
        """Compute in the format of the run.

        Not through the Trainer's own switch: that one copies all logits to fp32 once more.
        """
        stack: ExitStack = super().compute_loss_context_manager()  # type: ignore[misc]
        stack.enter_context(autocast(DTYPES[self.numerics.products], self.args.device.type))
        return stack

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Train on one batch.

        Raises:
            DivergedError: the loss is not finite, or far worse than it was.
        """
        loss: torch.Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        # The batches of a step give parts of its mean loss.
        self.step_loss += loss.item()
        if self.accelerator.sync_gradients or not math.isfinite(self.step_loss):
            mean, self.step_loss = mean_over_processes(self.step_loss), 0.0
            self.guard.check(mean, self.state.global_step + 1)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add seconds and tokens to every entry of the history."""
        logs["seconds"] = round(self.budget.elapsed, 3)
        logs["tokens"] = round(self.state.global_step * self.tokens_per_step)
        super().log(logs, start_time)  # type: ignore[misc]

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Save a state; the previous one stays until this one is whole.

        Raises:
            EverloopError: the disk is full, or the folder cannot be written.
        """
        try:
            super()._save_checkpoint(*args, **kwargs)  # type: ignore[misc]
        except (OSError, RuntimeError, SafetensorError) as error:
            run = RunFolder(Path(self.args.output_dir).parent)
            last = run.last_state
            kept = f"The state of {last.name} is whole" if last else "No earlier state exists"
            raise EverloopError(
                f"run {run.path.name}: the state of step {self.state.global_step} could not be "
                f"saved ({error}). {kept}; make room on the disk and start the run again."
            ) from error

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """A tied head is not in the file, rightly; everything else is worth its warning."""
        tied = {"lm_head.weight"} if self.model.config.tie_word_embeddings else set()
        load_result.missing_keys[:] = [key for key in load_result.missing_keys if key not in tied]
        super()._issue_warnings_after_load(load_result)  # type: ignore[misc]


class NextTokenLoss:
    """Overrides of a Trainer whose model predicts the next token; stands before RecipeMixin.

    Attributes:
        learns_in_pieces: whether the model's loss is that of training/answer_loss.py.
    """

    model: Any
    recipe: Any
    learns_in_pieces = False

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The model's own loss, without a cache for generation.

        For TRL's trainer too: its loss projects onto the vocabulary in tiles, which saves memory on
        GPUs, but on a CPU its backward pass takes several times as long as the whole head (330 ms
        instead of 90 ms for 4,096 tokens).
        """
        inputs = {**inputs, "use_cache": False}
        smoothing = self.recipe.label_smoothing if self.model.training else 0.0
        if smoothing and self.learns_in_pieces:
            inputs["label_smoothing"] = smoothing
        elif smoothing:
            return self._smoothed_loss(model, inputs, kwargs.get("num_items_in_batch"))
        return Trainer.compute_loss(cast(Trainer, self), model, inputs, *args, **kwargs)

    def _smoothed_loss(
        self, model: Any, inputs: dict[str, Any], items: torch.Tensor | int | None
    ) -> torch.Tensor:
        """Cross-entropy against targets that are smoothed; validation is not smoothed."""
        labels = inputs.pop("labels")
        shifted = inputs.pop("shift_labels", None)
        logits = model(**inputs).logits  # (B, T, V)
        if shifted is None:
            logits, shifted = logits[:, :-1], labels[:, 1:]
        total = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(),
            shifted.flatten(),
            label_smoothing=self.recipe.label_smoothing,
            reduction="sum",
        )
        return total / ((shifted != -100).sum() if items is None else items)


def trainer_arguments(config: OptimizerConfig, run: RunFolder, budget: Budget) -> dict[str, Any]:
    """The arguments that all trainers share; validation and saving go together."""
    device = device_of(config)
    sharding = {"fsdp": "full_shard", "fsdp_config": {"fsdp_version": 2}}
    return {
        "output_dir": str(run.trainer),
        "use_cpu": device == "cpu",
        "ddp_backend": "gloo" if device == "cpu" and world_size() > 1 else None,
        **(sharding if config.parallel == "fsdp" else {}),
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
        "dataloader_pin_memory": device != "cpu",
        "ddp_find_unused_parameters": False,
        "seed": config.seed,
        "data_seed": config.seed,
    }


def prepare(
    trainer: Any,
    run: RunFolder,
    title: str,
    consumption: ConsumptionCallback,
    progress: Progress | None,
) -> None:
    """Give a trainer its number formats, and its callbacks: budget, stopping, what shows it."""
    trainer.numerics = settle_numerics(run, trainer.args.device.type)
    trainer.remove_callback(PrinterCallback)
    callbacks: list[TrainerCallback] = [
        BudgetCallback(trainer.budget),
        consumption,
        EarlyStoppingCallback(early_stopping_patience=trainer.recipe.patience),
    ]
    if is_main_process():
        callbacks += [
            HistoryCallback(run.history),
            StatusCallback(run.path / "status.json", title, trainer.budget),
            *reporters(trainer.recipe, run.path),
        ]
        speed = torch_record().torch if trainer.args.device.type == "cpu" else None
        if speed is not None:
            callbacks.append(SlowStepCallback(step_work(trainer, speed, world_size())))
        if progress is not None:
            callbacks.append(ProgressCallback(progress, title, trainer.budget))
    for callback in callbacks:
        trainer.add_callback(callback)


def train(trainer: Any, run: RunFolder) -> dict[str, float]:
    """Train from the start, or from the last saved state; the best weights stand at the end.

    Returns:
        val_loss of the best weights, best_step (0: no step was better than the model that the run
        started from, which is the result), steps, tokens, seconds; diverged_step when the loss
        diverged and an earlier state was taken instead.

    Raises:
        DivergedError: the loss diverged before a step was better than the start.
        EverloopError: a state could not be saved.
    """
    last = run.last_state
    if last is not None:
        logger.info("run=%s resumes from %s", run.path.name, last.name)
    diverged: dict[str, float] = {}
    try:
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
    except DivergedError as error:
        if not trainer.state.best_global_step:
            raise
        logger.warning("%s The best saved state is kept.", error)
        trainer._load_best_model()
        diverged["diverged_step"] = float(error.step)
    state = trainer.state
    return {
        "val_loss": float(state.best_metric),
        "best_step": float(state.best_global_step or 0),
        "steps": float(state.global_step),
        "tokens": float(round(state.global_step * trainer.tokens_per_step)),
        "seconds": round(trainer.budget.elapsed, 3),
        **diverged,
    }
