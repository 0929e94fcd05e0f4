"""What every trainer does when it validates: within the budget, and never worse than the start."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Subset

from training.distributed import world_size
from training.schedule import Budget

# Of a budget of time, for one validation: the first and the last leave nine tenths to learning.
TIME_SHARE = 0.05

logger = logging.getLogger(__name__)


class ValidationMixin:
    """Overrides of a Trainer; stands before its class.

    Attributes:
        keeps_start: whether the weights at the start may be the result, being those of a model.
    """

    args: Any
    model: Any
    state: Any
    eval_dataset: Any
    budget: Budget
    keeps_start = False
    _is_bounded = False

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validate on all held rows, or on as many as the budget has time for."""
        # Several processes share the rows; their models cannot be asked one by one.
        if self.budget.seconds is not None and not self._is_bounded and world_size() == 1:
            self._bound_rows(self.budget.seconds)
        metrics: dict[str, float] = super().evaluate(*args, **kwargs)  # type: ignore[misc]
        return metrics

    def _evaluate(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validate; the weights at the start are the first best ones, and are saved as such."""
        metrics: dict[str, float] = super()._evaluate(trial, *args, **kwargs)  # type: ignore[misc]
        if self.keeps_start and self.state.global_step == 0:
            self._determine_best_metric(metrics, trial)  # type: ignore[attr-defined]
            # Here, as the Trainer takes step 0 for no step at all.
            self.state.best_model_checkpoint = str(Path(self.args.output_dir) / "checkpoint-0")
            self._save_checkpoint(self.model, trial)  # type: ignore[attr-defined]
        return metrics

    def _bound_rows(self, budget_seconds: float) -> None:
        """Choose rows once, spread over all; a run that goes on compares losses on the same."""
        self._is_bounded = True
        file = Path(self.args.output_dir).parent / "validation.json"
        if file.is_file():
            count = int(json.loads(file.read_text(encoding="utf-8"))["rows"])
        else:
            count = self._affordable_rows(budget_seconds)
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps({"rows": count}), encoding="utf-8")
            partial.rename(file)
        everything = len(self.eval_dataset)
        if count < everything:
            logger.info("validation on %d of %d rows, for lack of time", count, everything)
            chosen = np.linspace(0, everything - 1, count).astype(int).tolist()
            data = self.eval_dataset
            self.eval_dataset = (
                data.select(chosen) if hasattr(data, "select") else Subset(data, chosen)
            )

    def _affordable_rows(self, budget_seconds: float) -> int:
        """How many rows one validation can read in its share of the time; a batch at least."""
        loader = self.get_eval_dataloader()  # type: ignore[attr-defined]
        self.model.eval()
        started = self.budget.clock()
        self.prediction_step(self.model, next(iter(loader)), True)  # type: ignore[attr-defined]
        seconds = max(self.budget.clock() - started, 1e-9)
        batches = max(1, int(TIME_SHARE * budget_seconds / seconds))
        return min(batches * int(self.args.per_device_eval_batch_size), len(self.eval_dataset))
