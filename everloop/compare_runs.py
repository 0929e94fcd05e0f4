"""Train several kinds of network on the same data and budget, and set them side by side.

Each is exported and served by the engine too, since a recurrent network may be worse and faster:
what counts in service is quality per time. Wiring only.
"""

import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from everloop.errors import ConfigError
from everloop.evaluate_runs import report_page
from everloop.lifecycle import export_folder, validation_windows
from everloop.settings import Home, RunFile
from everloop.train_runs import train_run
from serving.engine.config import EngineConfig
from serving.engine.llm_engine import LLMEngine
from serving.engine.sampling_params import SamplingParams
from training.checkpoint import Checkpoint
from training.config import ModelConfig

KINDS = {"transformer": "transformer", "rnn": "lstm", "lstm": "lstm", "gru": "gru"}
DECODED_TOKENS = 96
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Comparison:
    """One kind of network, trained and served.

    Attributes:
        decode_ms: milliseconds per token when one request is served alone.
        quality: bits that the model saves per byte of text, of 8, per millisecond in which it
            serves that byte.
        report: page about the training.
    """

    kind: str
    parameters: int
    val_loss: float
    val_bpb: float
    steps: int
    train_tokens_per_second: float
    decode_ms: float
    quality: float
    report: Path


def compare_kinds(
    home: Home, run: RunFile, name: str, kinds: str, progress: Progress | None = None
) -> list[Comparison]:
    """Pre-train each kind under the settings of `[model]` and `[pretrain]`.

    Args:
        name: of the runs; each adds its kind.
        kinds: names separated by commas, such as `rnn,transformer`.

    Raises:
        ConfigError: a kind is unknown, or there is only one.
    """
    wanted = [kind.strip() for kind in kinds.split(",")]
    for kind in wanted:
        if kind not in KINDS:
            raise ConfigError(f"--compare {kinds}: unknown kind {kind}; known: {', '.join(KINDS)}.")
    if len({KINDS[kind] for kind in wanted}) < 2:
        raise ConfigError(f"--compare {kinds}: name two kinds or more, such as rnn,transformer.")
    checkpoints = []
    for kind in wanted:
        settings = {**run.values, "model": {**run.values.get("model", {}), "kind": KINDS[kind]}}
        checkpoints.append(
            train_run(
                home, RunFile(run.name, settings), f"{name}-{kind}", "pretrain", progress=progress
            )
        )
    with tempfile.TemporaryDirectory(dir=home.root, prefix="compare-") as staging:
        engines = [
            _engine(home, run, checkpoint, Path(staging) / kind)
            for kind, checkpoint in zip(wanted, checkpoints, strict=True)
        ]
        room = run.table("model", ModelConfig).context_length - 1
        speeds = _decode_ms(engines, min(DECODED_TOKENS, room))
        bytes_per_token = validation_windows(home, checkpoints[0], 1)[1]
        return [
            _compare(kind, checkpoint, speed, bytes_per_token, report_page(home, checkpoint))
            for kind, checkpoint, speed in zip(wanted, checkpoints, speeds, strict=True)
        ]


def _engine(home: Home, run: RunFile, checkpoint: Checkpoint, staging: Path) -> LLMEngine:
    staging.mkdir(parents=True)
    folder = export_folder(home, run, checkpoint, staging)
    return LLMEngine.load(folder, run.table("engine", EngineConfig))


def _decode_ms(engines: list[LLMEngine], tokens: int) -> list[float]:
    """The best of some rounds in which every engine decodes once, one after the other."""
    best = [math.inf] * len(engines)
    params = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    for number in range(ROUNDS):
        for index, engine in enumerate(engines):
            engine.add_request(f"{number}", [1], params)
            engine.step()
            started, decoded = time.perf_counter(), 0
            while engine.has_unfinished:
                decoded += len(engine.step())
            best[index] = min(best[index], 1000 * (time.perf_counter() - started) / decoded)
    return best


def _compare(
    kind: str, checkpoint: Checkpoint, decode_ms: float, bytes_per_token: float, report: Path
) -> Comparison:
    metrics = checkpoint.metrics
    return Comparison(
        kind=kind,
        parameters=int(metrics["parameters"]),
        val_loss=round(metrics["val_loss"], 4),
        val_bpb=round(metrics["val_bpb"], 4),
        steps=int(metrics["steps"]),
        train_tokens_per_second=round(metrics["tokens"] / metrics["seconds"], 1),
        decode_ms=round(decode_ms, 4),
        quality=round((8 - metrics["val_bpb"]) * bytes_per_token / decode_ms, 2),
        report=report,
    )
