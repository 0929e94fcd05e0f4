"""One side of `benchmarks.finetune`, in a process of its own, so that its peak memory is its own.

    .venv/bin/python -m benchmarks.finetune_side PLAN.json

The plan says who trains on what; the answer is one JSON object on stdout.
"""

import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from everloop.records import DatasetRow
from training.config import SftConfig
from training.pretrained import load_chat_tokenizer, load_network
from training.row_quality import evaluate_rows
from training.run_folder import RunFolder
from training.tune import fine_tune

# The rates of TRL's own guides: its default, and ten times as much with LoRA.
TRL_RATE, TRL_LORA_RATE = 2e-5, 2e-4


class Plan(BaseModel):
    """What a side does; both get the same but for `side` and `folder`.

    Attributes:
        folder: for what the side writes; empty.
        rank: of LoRA; None trains all weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    side: Literal["everloop", "trl"]
    model: Path
    folder: Path
    rows: tuple[DatasetRow, ...]
    held: tuple[DatasetRow, ...]
    steps: int
    batch: int
    rank: int | None
    threads: int
    dtype: Literal["fp32", "bf16"]


class Outcome(BaseModel):
    """What a side did.

    Attributes:
        seconds: of the steps after the first.
        peak_bytes: resident memory of the process, until the tuned weights lay on disk.
        loss: of the held-out answers, nats a token.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float
    peak_bytes: int
    loss: float


def train_everloop(plan: Plan) -> tuple[float, Path]:
    """Tune as a user of this project does; give seconds and the checkpoint."""
    run = RunFolder(plan.folder / "run")
    run.path.mkdir()
    numerics = {"products": plan.dtype, "muon": plan.dtype}
    run.numerics.write_text(json.dumps(numerics), encoding="utf-8")
    config = SftConfig(
        max_steps=plan.steps,
        device_batch_size=plan.batch,
        grad_accum_steps=1,
        optimizer="adamw",
        lora_rank=plan.rank,
        eval_every=100_000,
        eval_rows=1,
        log_every=1,
        num_threads=plan.threads,
        device="cpu",
    )
    held = [row.model_copy(update={"split": "validation"}) for row in plan.held]
    tuned = fine_tune(plan.model, plan.rows, held, run.path, config)
    lines = map(json.loads, run.history.read_text(encoding="utf-8").splitlines())
    ends = [line["seconds"] for line in lines if "train_loss" in line]
    return ends[-1] - ends[0], tuned.path


def train_trl(plan: Plan) -> tuple[float, Path]:
    """Tune by a plain TRL script; give seconds and the checkpoint."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig as TrlConfig
    from trl import SFTTrainer

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    torch.set_num_threads(plan.threads)
    lora = LoraConfig(
        r=plan.rank or 1, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer = SFTTrainer(
        model=str(plan.model),
        train_dataset=Dataset.from_list([_as_prompt(row) for row in plan.rows]),
        peft_config=None if plan.rank is None else lora,
        callbacks=[Clock()],
        args=TrlConfig(
            output_dir=str(plan.folder / "trl"),
            max_steps=plan.steps,
            per_device_train_batch_size=plan.batch,
            learning_rate=TRL_RATE if plan.rank is None else TRL_LORA_RATE,
            max_length=None,
            bf16=plan.dtype == "bf16",
            activation_checkpointing=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            model_init_kwargs={"dtype": "float32"},
            seed=1337,
        ),
    )
    trainer.train()
    tuned: Any = trainer.model
    network = tuned.merge_and_unload() if plan.rank is not None else tuned
    network.save_pretrained(plan.folder / "tuned")
    trainer.processing_class.save_pretrained(plan.folder / "tuned")
    return ends[-1] - ends[0], plan.folder / "tuned"


def _as_prompt(row: DatasetRow) -> dict[str, Any]:
    turns = [{"role": message.role, "content": message.content} for message in row.messages or ()]
    return {"prompt": turns[:-1], "completion": turns[-1:]}


def measure(plan: Plan) -> Outcome:
    """Train, then judge the weights on held-out answers in the same way for both sides."""
    seconds, tuned = (train_everloop if plan.side == "everloop" else train_trl)(plan)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    loss = held_out_loss(tuned, plan.held)
    return Outcome(seconds=seconds, peak_bytes=peak, loss=loss)


def held_out_loss(checkpoint: Path, rows: Sequence[DatasetRow]) -> float:
    """Nats a token of the answers."""
    network, tokenizer = load_network(checkpoint), load_chat_tokenizer(checkpoint)
    return evaluate_rows(network, tokenizer, rows)["chat"].loss


if __name__ == "__main__":
    asked = Plan.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(measure(asked).model_dump_json())
