"""Everything that an evaluation looks at, for one checkpoint and the one it came from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from everloop.records import DatasetRow
from training.cpu import training_session
from training.generate import encode_prompt, generate
from training.preference import (
    Estimate,
    accuracy,
    area_under_roc,
    pair_scores,
    rating_scores,
)
from training.pretrained import load_chat_tokenizer, load_network
from training.row_quality import Evaluation, evaluate_rows
from training.run_report import Findings, GroupQuality, Sample
from training.tasks import read_tasks, run_tasks

SAMPLES = 4
SAMPLE_TOKENS = 48
PROMPT_WORDS = 8  # of a text, for the model to go on from


def evaluate_checkpoint(
    checkpoint: Path,
    rows: Sequence[DatasetRow],
    *,
    parent: Path | None = None,
    task_file: Path | None = None,
    num_threads: int | None = None,
    device: str = "cpu",
) -> Findings:
    """Evaluate a checkpoint on validation rows.

    Args:
        rows: of any kinds; each is used where it fits.
        parent: checkpoint to compare losses and samples with.
        task_file: a user's tasks.
        device: cpu or cuda.

    Raises:
        ArtifactError: a folder holds no causal language model.
        DataError: nothing to evaluate on, or the task file is none.
    """
    tasks = read_tasks(task_file) if task_file else []
    with training_session(num_threads):
        network, tokenizer = _load(checkpoint, device)
        before = None if parent is None else _load(parent, device)
        has_chat = any(row.kind != "text" for row in rows)
        return Findings(
            quality=_quality(network, tokenizer, before, rows),
            samples=tuple(_samples(network, tokenizer, before, rows)),
            tasks=tuple(run_tasks(network, tokenizer, tasks, as_chat=has_chat)),
            preference=_preference(network, tokenizer, before, rows),
        )


Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def _load(folder: Path, device: str) -> Loaded:
    network: Any = load_network(folder, device=device)
    return network.to(device), load_chat_tokenizer(folder)


def _quality(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    before: Loaded | None,
    rows: Sequence[DatasetRow],
) -> tuple[GroupQuality, ...]:
    if not any(row.kind in ("text", "chat") for row in rows):
        return ()
    now = evaluate_rows(network, tokenizer, rows)
    then: dict[str, Evaluation] = {} if before is None else evaluate_rows(*before, rows)
    return tuple(
        GroupQuality(
            name=name,
            rows=group.rows,
            tokens=group.tokens,
            loss=group.loss,
            perplexity=group.perplexity,
            bits_per_byte=group.bits_per_byte,
            parent_loss=then[name].loss if name in then else None,
            parent_bits_per_byte=then[name].bits_per_byte if name in then else None,
        )
        for name, group in now.items()
    )


def _samples(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    before: Loaded | None,
    rows: Sequence[DatasetRow],
) -> list[Sample]:
    """Answers to held-out questions, and continuations of texts where there are no questions."""
    chats = [row for row in rows if row.messages is not None]
    chosen = (chats or list(rows))[:: max(1, len(chats or rows) // SAMPLES)][:SAMPLES]
    samples = []
    for row in chosen:
        if row.messages is not None:
            answered = row.kind in ("chat", "rated")
            prompt = row.messages[-2 if answered and len(row.messages) > 1 else -1].content
            expected = row.messages[-1].content if row.kind == "chat" else None
        else:
            words = (row.text or "").split()
            prompt, expected = " ".join(words[:PROMPT_WORDS]), None
        as_chat = row.messages is not None
        samples.append(
            Sample(
                prompt=prompt,
                expected=expected,
                text=_continue((network, tokenizer), prompt, as_chat),
                parent_text=None if before is None else _continue(before, prompt, as_chat),
            )
        )
    return samples


def _continue(loaded: Loaded, prompt: str, as_chat: bool) -> str:
    network, tokenizer = loaded
    ids = encode_prompt(tokenizer, prompt, as_chat=as_chat)
    return generate(network, tokenizer, ids, max_new_tokens=SAMPLE_TOKENS)


def _preference(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    before: Loaded | None,
    rows: Sequence[DatasetRow],
) -> dict[str, float]:
    pairs = [row for row in rows if row.kind == "preference"]
    rated = [row for row in rows if row.kind == "rated"]
    found: dict[str, Estimate] = {}
    if pairs:
        margins = pair_scores(network, tokenizer, pairs, split="validation")
        found["accuracy"] = accuracy(margins)
        if before is not None:
            moved = margins - pair_scores(*before, pairs, split="validation")
            found["reward_accuracy"] = accuracy(moved)
    if len({row.label for row in rated}) == 2:
        scores, approved = rating_scores(network, tokenizer, rated, split="validation")
        found["auc"] = area_under_roc(scores, approved)
        if before is not None:
            scores = scores - rating_scores(*before, rated, split="validation")[0]
            found["reward_auc"] = area_under_roc(scores, approved)
    return {
        key: value
        for name, estimate in found.items()
        for key, value in (
            (name, estimate.value),
            (f"{name}_low", estimate.low),
            (f"{name}_high", estimate.high),
        )
    }
