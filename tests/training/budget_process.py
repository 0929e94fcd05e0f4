"""One of two processes that begin at different moments and whose validations take 2 and 4 seconds:
writes what its budget says is spent and keeps back.

torchrun --nproc-per-node 2 -m tests.training.budget_process FOLDER
"""

import sys
from pathlib import Path
from typing import cast

from torch import distributed
from transformers import TrainerControl, TrainerState, TrainingArguments

from training.callbacks import BudgetCallback
from training.schedule import Budget

if __name__ == "__main__":
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    budget = Budget(max_steps=None, seconds=60.0)
    BudgetCallback(budget).on_evaluate(
        cast(TrainingArguments, None), TrainerState(), TrainerControl(),
        metrics={"eval_runtime": 2.0 + 2.0 * rank},
    )  # fmt: skip
    budget.tick()
    found = f"{budget.elapsed} {budget.reserve_seconds}"
    (Path(sys.argv[1]) / f"rank-{rank}").write_text(found)
    distributed.destroy_process_group()
