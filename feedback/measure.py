"""Measure a model version for the gate, on the graph that would be served. Wiring only."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from everloop.chat import FILE_NAME as CHAT_TEMPLATE
from everloop.errors import DataError
from everloop.lifecycle import checkpoint_of
from everloop.records import DatasetRow, Message
from everloop.registry import ModelVersion, Registry
from everloop.settings import Home
from feedback.gate import Measured
from feedback.general_ability import (
    MAX_ANSWER_TOKENS,
    general_answers,
    measured_half,
    replayed_half,
    whole_sentences,
)
from serving.engine.config import EngineConfig
from serving.engine.llm_engine import LLMEngine
from serving.engine.sampling_params import SamplingParams
from serving.engine.sequence import GenerationResult
from serving.openai_api.prompt import PromptEncoder
from training.export import window_losses
from training.forgetting import answer_divergence

logger = logging.getLogger(__name__)


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
    asked = [row for row in holdout if row.messages]
    answers = answer_questions(
        version,
        [(row.messages or ())[:-1] for row in asked],
        max_tokens=max_tokens,
        num_threads=num_threads,
        tools=[row.tools or () for row in asked],
    )
    wanted = [(row.messages or ())[-1].content for row in asked]
    return Measured(
        scores=np.array(
            [score(said.text, text) for said, text in zip(answers, wanted, strict=True)]
        ),
        losses=window_losses(version.path, windows).astype(np.float64),
        size_bytes=sum(path.stat().st_size for path in version.path.iterdir()),
    )


def answer_questions(
    version: ModelVersion,
    conversations: Sequence[Sequence[Message]],
    *,
    max_tokens: int,
    num_threads: int | None,
    tools: Sequence[Sequence[dict[str, Any]]] | None = None,
) -> list[GenerationResult]:
    """The version's greedy answers to conversations that end with a question.

    Args:
        tools: that each conversation may call.
    """
    engine = LLMEngine.load(version.path, EngineConfig(num_threads=num_threads))
    encoder = PromptEncoder(engine.tokenizer, engine.chat_template)
    served = engine.manifest.max_model_len  # fewer than the version takes where memory is short
    max_tokens = min(max_tokens, served // 2)
    longest = served - max_tokens
    prompts = [
        encoder.encode_chat(messages, offered)[-longest:]
        for messages, offered in zip(conversations, tools or [()] * len(conversations), strict=True)
    ]
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    return engine.generate(prompts, params)


def replayed_answers(
    home: Home, champion: ModelVersion, num_threads: int | None
) -> list[DatasetRow]:
    """What the imported model that a champion goes back to said before anything was tuned.

    Returns:
        Rows to train on; none for a champion that was trained here from the beginning.
    """
    model = _imported_model(home, champion)
    if model is None:
        return []
    return replayed_half(_answers(home, model, num_threads), model.tag)


def imported_divergence(
    home: Home, champion: ModelVersion, candidate: ModelVersion, num_threads: int | None
) -> float | None:
    """How far a candidate's checkpoint has moved from the imported model's, nats a token.

    Returns:
        None for a champion that was trained here from the beginning, and for an imported model
        that gave no answers within its context.
    """
    model = _imported_model(home, champion)
    if model is None:
        return None
    try:
        return answer_divergence(
            checkpoint_of(home, model).path,
            checkpoint_of(home, candidate).path,
            measured_half(_answers(home, model, num_threads)),
            num_threads=num_threads,
        )
    except DataError as error:  # a model that answers nothing has nothing to forget
        logger.warning("%s has no answers to general prompts: %s", model.tag, error)
        return None


def _imported_model(home: Home, champion: ModelVersion) -> ModelVersion | None:
    """The version at the beginning of a champion's line, if it can chat and came from elsewhere."""
    versions = {version.tag: version for version in Registry(home).list()}
    model = champion
    while model.manifest.lineage.parent is not None:
        parent = versions.get(model.manifest.lineage.parent)
        if parent is None:
            return None
        model = parent
    is_own = bool(model.manifest.lineage.datasets)
    return None if is_own or not (model.path / CHAT_TEMPLATE).exists() else model


def _answers(home: Home, model: ModelVersion, num_threads: int | None) -> list[tuple[Message, ...]]:
    def ask(prompts: Sequence[str]) -> list[str]:
        longest = min(MAX_ANSWER_TOKENS, model.manifest.max_model_len // 2)
        conversations = [(Message(role="user", content=prompt),) for prompt in prompts]
        results = answer_questions(
            model, conversations, max_tokens=longest, num_threads=num_threads
        )
        return [
            result.text if result.finish_reason == "stop" else whole_sentences(result.text)
            for result in results
        ]

    return general_answers(home.imports / f"{model.manifest.version}-answers.jsonl", ask)
