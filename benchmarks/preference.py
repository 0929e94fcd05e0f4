"""Does tuning on real human ratings make a model prefer what people approve?

    .venv/bin/python -m benchmarks.preference TASKMASTER4 [--quick] [--json]

The folder holds Taskmaster-4: data_*.json, dialogues of orders at a coffee bar, and reward_*.json,
turns of models with a person's reward of 1 or 0. A model learns the dialogues (SFT from random
weights), then the rewards of all files but the last (KTO), and is asked about the last: the area
under the ROC of its opinion against the rewards, before and after, with 95 % intervals.

Data: Google LLC, CC BY 4.0, arXiv:2403.10704.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress
from transformers import AutoTokenizer

from benchmarks.corpora import make_bpe
from benchmarks.report import PressureMeter, Result, parser, publish
from everloop.errors import DataError
from everloop.progress import progress_bar
from everloop.records import DatasetRow, Message, content_hash
from training.config import KtoConfig, ModelConfig, SftConfig
from training.cpu import training_session
from training.models import build_model
from training.preference import Estimate, Scores, area_under_roc, rating_scores
from training.pretrained import load_network
from training.tokens import TokenizerFolder
from training.tune import fine_tune

MODEL = ModelConfig(size="3m", context_length=384)
VOCABULARY = 2048


@dataclasses.dataclass(frozen=True, slots=True)
class Ratings:
    """Rated turns to learn from, to stop by, and to be asked about."""

    learnt: list[DatasetRow]
    held: list[DatasetRow]
    asked: list[DatasetRow]


def as_message(turn: dict[str, Any]) -> Message:
    """A turn of either file; calls and their results are written as the reward files do."""
    more = {key: value for key, value in turn.items() if key not in ("role", "text")}
    content = turn["text"] if "text" in turn else json.dumps(more)
    return Message(role="assistant" if turn["role"] == "agent" else "user", content=content)


def read_dialogues(folder: Path) -> list[DatasetRow]:
    """Whole dialogues, every tenth for validation."""
    rows = []
    for path in sorted(folder.glob("data_*.json")):
        for dialogue in json.loads(path.read_text(encoding="utf-8")):
            messages = tuple(as_message(turn) for turn in _turns(dialogue["utterances"]))
            while messages and messages[-1].role != "assistant":
                messages = messages[:-1]
            if messages:
                rows.append(_row(messages, "train" if len(rows) % 10 else "validation"))
    return rows


def _turns(utterances: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The turns of a dialogue, with the calls that the agent makes after what was said."""
    turns: list[dict[str, Any]] = []
    for utterance in utterances:
        role = "user" if utterance["speaker"] == "user" else "agent"
        turns.append({"role": role, "text": utterance["text"]})
        names = {"api_call": "request", "api_response": "response"}
        notes = utterance["annotations"]
        for kind, content in zip(notes[::2], notes[1::2], strict=False):
            if content["name"] != names.get(kind["name"]):
                continue
            value = {kind["value"]: _value(content["value"])}
            is_call = kind["name"] == "api_call"
            turns.append(
                {"role": "agent", "api": value} if is_call else {"role": "api", "response": value}
            )
    return turns


def _value(text: str) -> object:
    """What a call was given or gave; some people wrote no valid JSON, which stays text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def read_ratings(folder: Path) -> Ratings:
    """Rated turns: the last file is asked about, a tenth of the dialogues before stops tuning."""
    files = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("reward_*.json"))
    ]
    if len(files) < 2:
        raise DataError(f"{folder} holds {len(files)} files reward_*.json, at least 2 are needed.")
    learnt, held = [], []
    for entry in (entry for several in files[:-1] for entry in several):
        is_held = sum(entry["conversation_id"].encode()) % 10 == 0
        side = held if is_held else learnt
        side.append(_rated(entry, "validation" if is_held else "train"))
    return Ratings(learnt, held, [_rated(entry, "validation") for entry in files[-1]])


def _rated(entry: dict[str, Any], split: str) -> DatasetRow:
    turns = [*json.loads(entry["context"]), json.loads(entry["generation"])]
    return _row(tuple(as_message(turn) for turn in turns), split, bool(entry["reward"] > 0.5))


def _row(messages: tuple[Message, ...], split: str, label: bool | None = None) -> DatasetRow:
    row_id = content_hash(None, messages, label=label)
    return DatasetRow.model_validate(
        {"id": row_id, "split": split, "sources": (), "messages": messages, "label": label}
    )


def start_from_nothing(folder: Path, rows: Sequence[DatasetRow], seed: int) -> Path:
    """A checkpoint of random weights with a tokenizer of the dialogues."""
    texts = ["\n".join(message.content for message in row.messages or ()) for row in rows]
    tokenizer = TokenizerFolder.read(make_bpe(texts, VOCABULARY, folder / "tokenizer"))
    network = build_model(MODEL, tokenizer.vocab_size, tokenizer.special, seed)
    start = folder / f"start-{seed}"
    network.save_pretrained(start)
    tokenizer.copy_to(start)
    return start


def opinions(checkpoint: Path, rows: Sequence[DatasetRow]) -> tuple[Scores, Any]:
    """What a model thinks of every rated turn, and what the person thought."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    with training_session(None):
        network = load_network(checkpoint)
        return rating_scores(network, tokenizer, rows, split="validation")


def measure(
    data: Path, folder: Path, seeds: int, steps: tuple[int, int], progress: Progress
) -> list[Result]:
    """Tune with every seed, for so many steps of SFT and of KTO."""
    dialogues, ratings = read_dialogues(data), read_ratings(data)
    learnt = [row for row in dialogues if row.split == "train"]
    held = [row for row in dialogues if row.split == "validation"]
    found: dict[str, list[Estimate]] = {"before": [], "after": [], "reward": []}
    for seed in range(seeds):
        start = start_from_nothing(folder, learnt, seed)
        # From random weights, so at the rates of pre-training.
        sft = SftConfig(
            max_steps=steps[0], grad_accum_steps=1, eval_rows=32, seed=seed, patience=1000,
            muon_learning_rate=0.012, adamw_learning_rate=0.02,
        )  # fmt: skip
        base = fine_tune(start, learnt, held, folder / f"sft-{seed}", sft, progress=progress).path
        kto = KtoConfig(max_steps=steps[1], grad_accum_steps=2, eval_rows=64, seed=seed)
        tuned = fine_tune(
            base, ratings.learnt, ratings.held, folder / f"kto-{seed}", kto, progress=progress
        ).path
        before, approved = opinions(base, ratings.asked)
        after, _ = opinions(tuned, ratings.asked)
        found["before"].append(area_under_roc(before, approved, seed=seed))
        found["after"].append(area_under_roc(after, approved, seed=seed))
        found["reward"].append(area_under_roc(after - before, approved, seed=seed))
    results = []
    for name, words in (
        ("before", "opinion of the SFT model"),
        ("after", "opinion after KTO"),
        ("reward", "implicit reward of KTO"),
    ):
        results += _results(words, found[name], None if name == "before" else found["before"])
    return results


def _results(words: str, found: list[Estimate], before: list[Estimate] | None) -> list[Result]:
    mean = statistics.mean(estimate.value for estimate in found)
    peer = None if before is None else statistics.mean(estimate.value for estimate in before)
    summary = Result(
        name=f"{words}, mean of {len(found)} seeds",
        value=mean,
        unit="area under ROC",
        peer=peer,
        ratio=None if peer is None else mean / peer,
        target=None if peer is None else 1.0,
        ok=None if peer is None else mean > peer,
    )
    each = [
        Result(
            name=f"{words}, seed {seed}: {estimate.low:.3f} to {estimate.high:.3f}",
            value=estimate.value,
            unit="area under ROC",
        )
        for seed, estimate in enumerate(found)
    ]
    return [summary, *each]


def options() -> argparse.ArgumentParser:
    """The options of this benchmark."""
    known = parser("Human ratings of Taskmaster-4: preference before and after KTO.")
    known.add_argument("data", type=Path, help="folder of Taskmaster-4")
    known.add_argument("--sft-steps", type=int, default=240)
    known.add_argument("--kto-steps", type=int, default=75)
    known.add_argument("--seeds", type=int, default=3)
    return known


def main() -> None:
    """Measure and print."""
    arguments = options().parse_args()
    steps = (60, 25) if arguments.quick else (arguments.sft_steps, arguments.kto_steps)
    seeds = 1 if arguments.quick else arguments.seeds
    pressure = PressureMeter()
    with tempfile.TemporaryDirectory() as folder, progress_bar() as progress:
        results = measure(arguments.data, Path(folder), seeds, steps, progress)
    publish("preference", results, arguments, pressure.read())


if __name__ == "__main__":
    main()
