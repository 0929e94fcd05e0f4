"""Fine-tuning beside a plain TRL script: tokens a second, peak memory, loss of held-out answers.

    .venv/bin/python -m benchmarks.finetune [--quick] [--json] [--model FOLDER --rows FILE]
        [--all-weights] [--dtype bf16] [--steps 12] [--batch 8] [--rounds 3] [--threads 2]

Both sides see the same rows once, in the same number of steps, with the same threads and number
format, without gradient checkpointing; each takes its own learning rate. Each round runs one after
the other, each in a process of its own. Without --model the model is tiny and knows nothing.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from benchmarks.finetune_rows import made_up_conversations, read_conversations
from benchmarks.finetune_side import Outcome, Plan, held_out_loss
from benchmarks.random_model import TINY, make_checkpoint
from benchmarks.report import PressureMeter, Result, parser, publish
from everloop.errors import DataError
from everloop.progress import progress_bar
from everloop.records import DatasetRow
from training.pretrained import load_chat_tokenizer
from training.sft_rows import encode_rows

LORA_RANK = 8
SPEED_TARGETS = {True: 1.5, False: 1.2}  # with LoRA, and of all weights
MEMORY_TARGET = 0.7
_DTYPES = get_args(Plan.model_fields["dtype"].annotation)


def run_side(plan: Plan, name: str) -> Outcome:
    """Run one side in a process of its own.

    Raises:
        RuntimeError: it failed; the end of what it said is in the message.
    """
    plan.folder.mkdir()
    file = plan.folder / "plan.json"
    file.write_text(plan.model_copy(update={"side": name}).model_dump_json(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.finetune_side", str(file)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode:
        raise RuntimeError(f"the side {name} failed: {done.stderr[-2000:]}")
    return Outcome.model_validate_json(done.stdout.splitlines()[-1])


def summarise(
    pairs: Sequence[tuple[Outcome, Outcome]], tokens: float, is_lora: bool, before: float
) -> list[Result]:
    """Make the lines of the table of rounds, ours first in each.

    Args:
        pairs: of the rounds.
        tokens: of the steps after the first, prompts included and padding not.
        is_lora: decides the target of the speed.
        before: loss of the held-out answers before tuning.
    """
    ours, theirs = zip(*pairs, strict=True)
    speed = Result.of_rounds(
        "training / TRL",
        "tokens/s",
        [tokens / one.seconds for one in ours],
        [tokens / one.seconds for one in theirs],
        SPEED_TARGETS[is_lora],
    )
    # Of these, less is better: the target is a ceiling.
    falling = []
    for name, unit, target, values, peers in (
        (
            "peak memory / TRL", "GB", MEMORY_TARGET,
            [one.peak_bytes / 1e9 for one in ours], [one.peak_bytes / 1e9 for one in theirs],
        ),
        (
            "loss of held-out answers / TRL", "nats/token", 1.0,
            [one.loss for one in ours], [one.loss for one in theirs],
        ),
    ):  # fmt: skip
        result = Result.of_rounds(name, unit, values, peers)
        is_reached = result.ratio is not None and result.ratio <= target
        falling.append(dataclasses.replace(result, target=target, ok=is_reached))
    return [speed, *falling, Result.of_values("loss before tuning", "nats/token", [before])]


def main() -> None:
    """Measure and print."""
    options = parser("Fine-tuning next to a plain TRL script.")
    options.add_argument("--tiny", action="store_true", help="the tiny model; so without --model")
    options.add_argument("--model", type=Path, help="folder of a Hugging Face checkpoint")
    options.add_argument("--rows", type=Path, help="file of conversations")
    options.add_argument("--all-weights", action="store_true", help="instead of LoRA's additions")
    options.add_argument("--dtype", choices=_DTYPES, default="fp32", help="of the products")
    options.add_argument("--steps", type=int, default=12)
    options.add_argument("--batch", type=int, default=8, help="rows of a step")
    options.add_argument("--held", type=int, default=64, help="rows that judge the loss")
    options.add_argument("--longest", type=int, help="leave out rows of more tokens")
    options.add_argument("--rounds", type=int)
    options.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = options.parse_args()
    pressure = PressureMeter()
    with tempfile.TemporaryDirectory() as name:
        results, settings = _measure(arguments, Path(name))
    publish("finetune", results, arguments, pressure.read(), settings)


def _measure(options: argparse.Namespace, folder: Path) -> tuple[list[Result], dict[str, object]]:
    model = options.model or make_checkpoint(folder / "model", TINY)
    needed = options.steps * options.batch
    wanted = needed + options.held
    rows = read_conversations(options.rows) if options.rows else made_up_conversations(wanted)
    rows, lengths = _fitting(rows, model, options.longest, wanted)
    plan = Plan(
        side="everloop",
        model=model,
        folder=folder / "first",
        rows=tuple(rows[:needed]),
        held=tuple(rows[needed:]),
        steps=options.steps,
        batch=options.batch,
        rank=None if options.all_weights else LORA_RANK,
        threads=options.threads,
        dtype=options.dtype,
    )
    rounds = options.rounds or (1 if options.quick else 3)
    pairs = []
    with progress_bar() as progress:
        bar = progress.add_task("measuring", total=2 * rounds)
        for number in range(rounds):
            outcomes = []
            for side in ("everloop", "trl"):
                place = folder / f"{side}-{number}"
                outcomes.append(run_side(plan.model_copy(update={"folder": place}), side))
                progress.advance(bar)
            pairs.append((outcomes[0], outcomes[1]))
    tokens = sum(lengths[:needed]) * (options.steps - 1) / options.steps
    settings: dict[str, object] = {
        "trains": "all weights" if options.all_weights else f"LoRA of rank {LORA_RANK}",
        "steps": f"{options.steps} of {options.batch} rows, {sum(lengths[:needed]):,} tokens",
        "format": f"{options.dtype}, {options.threads} threads, {rounds} rounds",
    }
    before = held_out_loss(model, plan.held)
    return summarise(pairs, tokens, not options.all_weights, before), settings


def _fitting(
    rows: Sequence[DatasetRow], model: Path, longest: int | None, wanted: int
) -> tuple[list[DatasetRow], list[int]]:
    """The first rows that are short enough, and their tokens."""
    tokenizer = load_chat_tokenizer(model)
    kept: list[tuple[DatasetRow, int]] = []
    for row in rows:
        whole = encode_rows([row], tokenizer, 1 << 20, split="train", seed=0).rows[0]
        if longest is None or whole.length <= longest:
            kept.append((row, whole.length))
        if len(kept) == wanted:
            return [one for one, _ in kept], [length for _, length in kept]
    raise DataError(
        f"{wanted} rows are needed to train and to judge, {len(kept)} are there. Ask for fewer "
        "steps or held rows, or allow longer rows."
    )


if __name__ == "__main__":
    main()
