"""What the trainer costs: tokens per second beside a bare PyTorch loop on the same model and data.

    .venv/bin/python -m benchmarks.trainer [--quick] [--json] [--threads N]

Both sides train the same network on the same windows with the same optimizer, in bf16 where the
processor has it, and clip the same gradients; the trainer's side also logs, keeps its budget and
watches its loss. Each round runs both, one after the other; the first ten steps do not count.
"""

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.corpora import make_bpe, make_shards
from benchmarks.report import PressureMeter, Result, parser, publish
from everloop.progress import progress_bar
from training.config import ModelConfig, PretrainConfig, Size
from training.cpu import autocast, training_session
from training.models import build_model, learning_rates
from training.numerics import DTYPES, choose_numerics
from training.optimizer import make_optimizer
from training.pretrain import pretrain
from training.shards import TokenShard
from training.tokens import TokenizerFolder
from training.windows import TrainingWindows

TARGET = 0.95
WARM_UP = 10  # steps; also how often the trainer logs
CONTEXT = 256
SIZES: tuple[Size, ...] = ("3m", "10m")


def make_text(words: int) -> str:
    """Text of random words, always the same."""
    random = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    lexicon = ["".join(random.choice(letters, random.integers(2, 9))) for _ in range(3000)]
    return " ".join(random.choice(lexicon, words))


class Bench:
    """Data and settings of all rounds."""

    def __init__(self, folder: Path, steps: int, threads: int | None) -> None:
        text = make_text(60_000)
        self._folder = folder
        self.tokenizer = make_bpe([text], 4096, folder / "tokenizer")
        texts = {"train": [text], "validation": [text[:20_000]]}
        self.shards = make_shards(texts, self.tokenizer, folder / "shards")
        self.steps, self.threads = steps, threads

    def config(self, steps: int) -> PretrainConfig:
        """A run without validations on the way."""
        return PretrainConfig(
            max_steps=steps, eval_every=10_000, eval_windows=1, log_every=WARM_UP,
            num_threads=self.threads, device="cpu",
        )  # fmt: skip

    def trainer(self, size: Size, number: int) -> float:
        """Tokens per second of the trainer, after the warm-up."""
        run = self._folder / f"run-{size}-{number}"
        model = ModelConfig(size=size, context_length=CONTEXT)
        pretrain(self.shards, self.tokenizer, run, model, self.config(self.steps + WARM_UP))
        lines = (run / "history.jsonl").read_text(encoding="utf-8").splitlines()
        points = [entry for entry in map(json.loads, lines) if "train_loss" in entry]
        first, last = points[0], points[-1]
        return float((last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"]))

    def bare(self, size: Size) -> float:
        """Tokens per second of a loop that does nothing else, after the warm-up."""
        config = self.config(self.steps + WARM_UP)
        folder = TokenizerFolder.read(self.tokenizer)
        model = ModelConfig(size=size, context_length=CONTEXT)
        rows = config.device_batch_size
        windows = TrainingWindows(
            TokenShard.open(self.shards, "train").tokens,
            CONTEXT,
            length=(self.steps + WARM_UP) * rows,
            seed=config.seed,
            separator=folder.special.bos,
        )
        with training_session(self.threads):
            network = build_model(model, folder.vocab_size, folder.special, config.seed).train()
            rates = learning_rates(network.config.hidden_size, config)
            numerics = choose_numerics("cpu")
            optimizer = make_optimizer(
                network, rates, config.weight_decay, muon_dtype=DTYPES[numerics.muon]
            )
            started = 0.0
            for step in range(self.steps + WARM_UP):
                examples = [windows[step * rows + row] for row in range(rows)]
                batch = {
                    name: torch.from_numpy(np.stack([example[name] for example in examples]))
                    for name in examples[0]
                }
                with autocast(DTYPES[numerics.products]):
                    loss = network(**batch, use_cache=False).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), config.grad_clip)
                optimizer.step()
                optimizer.zero_grad()
                if step == WARM_UP - 1:
                    started = time.perf_counter()
            return self.steps * rows * CONTEXT / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    options = parser("The trainer next to a bare loop.")
    options.add_argument("--sizes", default=",".join(SIZES), help="separated by commas")
    options.add_argument("--threads", type=int, help="CPU threads of both sides")
    arguments = options.parse_args()
    rounds, steps = (3, 10) if arguments.quick else (5, 40)
    pressure = PressureMeter()
    sizes = [size for size in SIZES if size in arguments.sizes.split(",")]
    results = []
    with tempfile.TemporaryDirectory() as folder, progress_bar() as progress:
        bench = Bench(Path(folder), steps, arguments.threads)
        bar = progress.add_task("measuring", total=rounds * len(sizes))
        for size in sizes:
            pairs = []
            for number in range(rounds):
                pairs.append((bench.trainer(size, number), bench.bare(size)))
                progress.advance(bar)
            values, peers = map(list, zip(*pairs, strict=True))
            results.append(Result.of_rounds(f"{size} trainer", "tokens/s", values, peers, TARGET))
    publish("trainer", results, arguments, pressure.read())


if __name__ == "__main__":
    main()
