"""Decode and prefill speed of the engine next to transformers' generate, on the same weights.

    .venv/bin/python -m benchmarks.engine [--quick] [--json] [--spinning]

A random-weight Llama of SmolLM2-135M's shape, exported in fp32 and int8. In every round each side
runs once, one after the other; the peer is transformers in fp32 with as many threads.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from transformers import LlamaForCausalLM, StoppingCriteria, StoppingCriteriaList

from benchmarks.report import PressureMeter, Result, parser, publish
from serving.engine.config import EngineConfig
from serving.engine.llm_engine import LLMEngine
from serving.engine.sampling_params import SamplingParams
from tests.tiny_model import GOLDEN_PROMPTS, make_tiny_checkpoint
from training.export import ExportConfig, export_checkpoint

VOCAB_SIZE = 49_152
PROMPT_TOKENS = 128
PREFILL_TOKENS = 512
ROWS = (1, 8, 32)
TARGETS = {("fp32", 8): 2.5}

Prompts = list[list[int]]


class TokenClock(StoppingCriteria):
    """Notes the time of every token that generate chooses, and never stops it."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        """Note the time."""
        self.times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def make_checkpoint(folder: Path) -> Path:
    """Write the random model."""
    return make_tiny_checkpoint(
        folder,
        family="llama",
        max_model_len=2048,
        vocab_size=VOCAB_SIZE,
        seed=1234,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        initializer_range=0.02,
    )


def load_engine(checkpoint: Path, precision: str, config: EngineConfig) -> LLMEngine:
    """Export the checkpoint in a precision and load it."""
    staging = checkpoint.parent / precision
    staging.mkdir()
    version = export_checkpoint(
        checkpoint,
        np.random.default_rng(0).integers(3, 259, (2, 33)),
        # Random weights are the worst case of int8; what it costs on real ones is export's matter.
        config=ExportConfig(precision=precision, max_int8_loss_increase=1.0, max_model_len=1024),
        bytes_per_token=1.0,
        golden_prompts=GOLDEN_PROMPTS,
        evaluation={},
        staging=staging,
    )
    return LLMEngine.load(version, config)


def engine_decode(engine: LLMEngine, prompts: Prompts, tokens: int) -> float:
    """Tokens per second of all rows together, counted after the last row's first token."""
    # Rows that got their first token early must still run when the last one is counted.
    params = SamplingParams(max_tokens=tokens + 64, temperature=0.0, ignore_eos=True)
    for number, prompt in enumerate(prompts):
        engine.add_request(str(number), prompt, params)
    begun: set[str] = set()
    while len(begun) < len(prompts):
        begun.update(output.request_id for output in engine.step())
    started = time.perf_counter()
    for _ in range(tokens):
        engine.step()
    seconds = time.perf_counter() - started
    for number in range(len(prompts)):
        engine.abort_request(str(number))
    engine.step()
    return tokens * len(prompts) / seconds


def engine_prefill(engine: LLMEngine, prompt: list[int]) -> float:
    """Prompt tokens per second."""
    started = time.perf_counter()
    engine.generate([prompt], SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True))
    return len(prompt) / (time.perf_counter() - started)


def peer_generate(model: LlamaForCausalLM, prompts: Prompts, tokens: int) -> list[float]:
    """Generate greedily; give the time of the start and of every token."""
    clock = TokenClock()
    started = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            torch.tensor(prompts),
            attention_mask=torch.ones(len(prompts), len(prompts[0]), dtype=torch.long),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
    return [started, *clock.times]


def peer_decode(model: LlamaForCausalLM, prompts: Prompts, tokens: int) -> float:
    """Tokens per second of all rows together, counted after the first token."""
    times = peer_generate(model, prompts, tokens + 1)
    return tokens * len(prompts) / (times[-1] - times[1])


def peer_prefill(model: LlamaForCausalLM, prompt: list[int]) -> float:
    """Prompt tokens per second."""
    times = peer_generate(model, [prompt], 1)
    return len(prompt) / (times[1] - times[0])


def measure(
    engines: dict[str, LLMEngine],
    model: LlamaForCausalLM,
    rounds: int,
    tokens: int,
    advance: Callable[[], None],
) -> list[Result]:
    """Run all rounds.

    Args:
        engines: by precision.
        model: the peer.
        rounds: of every measurement.
        tokens: of every decode.
        advance: called after each measurement of a round.
    """
    random = np.random.default_rng(0)
    values: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for rows in (0, *ROWS):  # 0 stands for prefill
            # New prompts every time, so that no cached prefix helps.
            size = (max(rows, 1), PROMPT_TOKENS if rows else PREFILL_TOKENS)
            prompts = random.integers(3, VOCAB_SIZE, size).tolist()
            for precision, engine in engines.items():
                speed = (
                    engine_decode(engine, prompts, tokens)
                    if rows
                    else engine_prefill(engine, prompts[0])
                )
                values.setdefault((precision, rows), []).append(speed)
            speed = peer_decode(model, prompts, tokens) if rows else peer_prefill(model, prompts[0])
            values.setdefault(("peer", rows), []).append(speed)
            advance()
    return [
        Result.of_rounds(
            f"{precision} decode, {rows} rows" if rows else f"{precision} prefill",
            "tokens/s",
            values[precision, rows],
            values["peer", rows],
            TARGETS.get((precision, rows)),
        )
        for precision in engines
        for rows in (*ROWS, 0)
    ]


def main() -> None:
    """Measure and print."""
    options = parser("The engine next to transformers' generate.")
    options.add_argument("--spinning", action="store_true", help="set engine.allow_spinning")
    arguments = options.parse_args()
    rounds, tokens = (2, 16) if arguments.quick else (5, 48)
    config = EngineConfig(allow_spinning=arguments.spinning)
    torch.set_num_threads(config.threads)
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        checkpoint = make_checkpoint(Path(folder) / "checkpoint")
        engines = {
            precision: load_engine(checkpoint, precision, config) for precision in ("fp32", "int8")
        }
        model = LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        bar = progress.add_task("measuring", total=rounds * (1 + len(ROWS)))
        pressure = PressureMeter()
        results = measure(engines, model, rounds, tokens, lambda: progress.advance(bar))
    publish("engine", results, arguments, pressure.read())


if __name__ == "__main__":
    main()
