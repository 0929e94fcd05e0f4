"""Measure a model version for the gate, on the graph that would be served. Wiring only."""

from collections.abc import Callable, Sequence

import numpy as np

from everloop.records import DatasetRow
from everloop.registry import ModelVersion
from feedback.gate import Measured
from serving.engine.config import EngineConfig
from serving.engine.llm_engine import LLMEngine
from serving.engine.sampling_params import SamplingParams
from serving.openai_api.prompt import PromptEncoder
from training.export import window_losses


def measure_version(
    version: ModelVersion,
    holdout: Sequence[DatasetRow],
    windows: np.ndarray,
    score: Callable[[str, str], float],
    *,
    max_tokens: int,
    num_threads: int | None,
) -> Measured:
    """Let a version answer held-out questions, greedily, and read the original validation text.

    Args:
        holdout: conversations that end with the answer people want.
        windows: validation tokens, (N, context + 1).
        score: how close an answer is to the wanted one, 0 to 1.
        max_tokens: the longest answer.
        num_threads: CPU threads; few beside a live server.
    """
    answers = answer_questions(version, holdout, max_tokens, num_threads)
    wanted = [row.messages[-1].content for row in holdout if row.messages]
    return Measured(
        scores=np.array([score(*pair) for pair in zip(answers, wanted, strict=True)]),
        losses=window_losses(version.path, windows).astype(np.float64),
        size_bytes=sum(path.stat().st_size for path in version.path.iterdir()),
    )


def answer_questions(
    version: ModelVersion, rows: Sequence[DatasetRow], max_tokens: int, num_threads: int | None
) -> list[str]:
    """The version's greedy answers to the last question of each conversation."""
    engine = LLMEngine.load(version.path, EngineConfig(num_threads=num_threads))
    encoder = PromptEncoder(engine.tokenizer, engine.chat_template)
    served = engine.manifest.max_model_len  # fewer than the version takes where memory is short
    max_tokens = min(max_tokens, served // 2)
    longest = served - max_tokens
    prompts = [
        encoder.encode_chat(row.messages[:-1], row.tools or ())[-longest:]
        for row in rows
        if row.messages
    ]
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    return [result.text for result in engine.generate(prompts, params)]
