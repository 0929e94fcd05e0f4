"""Does a model that knows another text learn a new domain faster than one that knows nothing?

    .venv/bin/python -m benchmarks.transfer BASE.TXT... --domain GSM8K.JSONL [--quick] [--json]

Base text A: the documentation of Python, or the files named. Domain B: questions with answers, one
JSON object per line. For each share of B three runs, with one tokenizer for all:

- transfer: trained on A for s_A steps, then on the share of B for s steps;
- scratch: on the share of B for s;
- scratch, equal total: on the share of B for s_A + s, stopped where its validation was best.

Budgets are optimizer steps, so that the losses do not depend on who else uses the machine.

Told is the loss on held-out B (peer: scratch, equal total), and what the move cost on held-out A,
without and with A replayed among B in equal parts.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress

from benchmarks.corpora import Texts, make_bpe, make_shards
from benchmarks.report import PressureMeter, Result, parser, publish
from everloop.progress import progress_bar
from everloop.records import Document
from training import python_docs
from training.config import ModelConfig, PretrainConfig
from training.cpu import training_session
from training.pretrain import pretrain
from training.pretrained import load_network
from training.scoring import log_likelihoods
from training.shards import TokenShard

MODEL = ModelConfig(size="3m", context_length=128)
VOCABULARY = 2048
HELD_OUT = 10  # every tenth text


@dataclass(frozen=True, slots=True)
class Budget:
    """Steps of training on A and on B."""

    base: int
    domain: int
    shares: tuple[float, ...]
    seeds: int


FULL = Budget(base=480, domain=120, shares=(0.01, 0.05, 0.2, 1.0), seeds=3)
QUICK = Budget(base=120, domain=30, shares=(0.05, 1.0), seeds=1)


def split(texts: Sequence[str]) -> Texts:
    """Keep every tenth text for validation."""
    return {
        "train": [text for number, text in enumerate(texts) if number % HELD_OUT],
        "validation": [text for number, text in enumerate(texts) if number % HELD_OUT == 0],
    }


class Laboratory:
    """The folders of one benchmark: a tokenizer, shards, runs."""

    def __init__(self, folder: Path, base: Texts, domain: Texts, progress: Progress) -> None:
        self._folder = folder
        self._base, self._domain = base, domain
        self._progress = progress
        texts = [*base["train"], *domain["train"]]
        self._tokenizer = make_bpe(texts, VOCABULARY, folder / "tokenizer")
        self.base = self._shards("base", base)

    def share(self, share: float, seed: int, *, replay: bool = False) -> Path:
        """Shards of a share of B, at random; with replay, as many characters of A among them."""
        random = np.random.default_rng(seed)
        texts = list(self._domain["train"])
        chosen = random.permutation(len(texts))[: max(8, round(share * len(texts)))]
        learnt = [texts[index] for index in chosen]
        if replay:
            old = random.permutation(np.array(self._base["train"], dtype=object)).tolist()
            ends = np.cumsum([len(text) for text in old])
            learnt += old[: int(np.searchsorted(ends, sum(map(len, learnt)))) + 1]
            random.shuffle(learnt)
        name = f"domain-{share:g}-{seed}{'-replay' if replay else ''}"
        return self._shards(name, {"train": learnt, "validation": self._domain["validation"]})

    def train(
        self, name: str, shards: Path, steps: int, seed: int, parent: Path | None = None
    ) -> Path:
        """Train for so many steps, or until four validations have not been better than the best."""
        config = PretrainConfig(
            max_steps=steps, device_batch_size=16, eval_every=30, patience=4, seed=seed
        )
        run = self._folder / "runs" / name
        return pretrain(
            shards, self._tokenizer, run, MODEL, config, parent=parent, progress=self._progress
        ).path

    def loss(self, checkpoint: Path, shards: Path) -> float:
        """Nats per token over the validation split, at most 100 windows of it."""
        windows = TokenShard.open(shards, "validation").windows(MODEL.context_length)
        chosen = np.linspace(0, len(windows) - 1, min(100, len(windows))).astype(int)
        parts = [
            (window[:1].tolist(), window[1:].tolist())
            for window in np.asarray(windows[chosen]).astype(np.int64)
        ]
        with training_session(None):
            sums = log_likelihoods(load_network(checkpoint), parts)
        return -float(sums.sum()) / (len(parts) * MODEL.context_length)

    def _shards(self, name: str, texts: Texts) -> Path:
        folder = self._folder / "shards" / name
        return folder if folder.is_dir() else make_shards(texts, self._tokenizer, folder)


def measure(lab: Laboratory, budget: Budget) -> list[Result]:
    """Train everything."""
    losses: dict[tuple[str, float], list[float]] = {}
    kept: dict[str, list[float]] = {}

    def note(name: str, share: float, value: float) -> None:
        losses.setdefault((name, share), []).append(value)

    for seed in range(budget.seeds):
        base = lab.train(f"base-{seed}", lab.base, budget.base, seed)
        kept.setdefault("before", []).append(lab.loss(base, lab.base))
        for share in budget.shares:
            shards = lab.share(share, seed)
            moved = lab.train(f"moved-{share:g}-{seed}", shards, budget.domain, seed, base)
            alone = lab.train(f"alone-{share:g}-{seed}", shards, budget.domain, seed)
            total = budget.base + budget.domain
            longer = lab.train(f"longer-{share:g}-{seed}", shards, total, seed)
            for name, run in (("transfer", moved), ("scratch", alone), ("longer", longer)):
                note(name, share, lab.loss(run, shards))
        mixed = lab.share(budget.shares[-1], seed, replay=True)
        replayed = lab.train(f"replayed-{seed}", mixed, budget.domain, seed, base)
        kept.setdefault("moved", []).append(lab.loss(moved, lab.base))
        kept.setdefault("replayed", []).append(lab.loss(replayed, lab.base))
        note("replayed", budget.shares[-1], lab.loss(replayed, mixed))
    return [*_gains(losses, budget.shares), *_forgetting(losses, kept, budget.shares[-1])]


def _gains(losses: dict[tuple[str, float], list[float]], shares: Sequence[float]) -> list[Result]:
    results = []
    for share in shares:
        transfer = losses["transfer", share]
        for name, words in (("scratch", "scratch"), ("longer", "scratch, equal total")):
            results.append(
                _lower(f"{share:.0%} of B: transfer / {words}", transfer, losses[name, share])
            )
    return results


def _forgetting(
    losses: dict[tuple[str, float], list[float]], kept: dict[str, list[float]], share: float
) -> list[Result]:
    return [
        _lower("A after the move / before it", kept["moved"], kept["before"], is_target=False),
        _lower("A after the move with replay / before", kept["replayed"], kept["before"], False),
        _lower(
            "B with replay / without", losses["replayed", share], losses["transfer", share], False
        ),
    ]


def _lower(name: str, values: list[float], peers: list[float], is_target: bool = True) -> Result:
    """A loss beside another one: below 1 is better."""
    ratios = [value / peer for value, peer in zip(values, peers, strict=True)]
    ratio = statistics.median(ratios)
    return Result(
        name=name,
        value=statistics.mean(values),
        unit="nats/token",
        peer=statistics.mean(peers),
        ratio=ratio,
        ratio_range=(min(ratios), max(ratios)),
        target=1.0 if is_target else None,
        ok=ratio < 1.0 if is_target else None,
    )


def read_base(paths: Sequence[Path]) -> list[str]:
    """Paragraphs of text files, or Python's documentation."""
    if not paths:
        return [item.text for item in python_docs.read() if isinstance(item, Document)]
    text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    return [part.strip() for part in text.split("\n \n") if len(part.split()) > 20]


def read_domain(path: Path) -> list[str]:
    """Questions with their answers."""
    lines = path.read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines if line.strip()]
    return [f"Question: {entry['question']}\nAnswer: {entry['answer']}" for entry in entries]


def options() -> argparse.ArgumentParser:
    """The options of this benchmark."""
    known = parser("Transfer to a new domain against training from scratch.")
    known.add_argument("base", type=Path, nargs="*", help="text files of A; Python's docs if none")
    known.add_argument("--domain", type=Path, required=True, help="JSONL with question and answer")
    return known


def main() -> None:
    """Measure and print."""
    arguments = options().parse_args()
    pressure = PressureMeter()
    with tempfile.TemporaryDirectory() as folder, progress_bar() as progress:
        base, domain = split(read_base(arguments.base)), split(read_domain(arguments.domain))
        lab = Laboratory(Path(folder), base, domain, progress)
        results = measure(lab, QUICK if arguments.quick else FULL)
    publish("transfer", results, arguments, pressure.read())


if __name__ == "__main__":
    main()
