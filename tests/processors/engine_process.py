"""Load model versions and answer with them, as a process of its own on another processor.

qemu-x86_64 -cpu Haswell python -m tests.processors.engine_process VERSION...
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

from everloop.errors import ArtifactError
from everloop.machine import instruction_sets
from serving.engine.config import EngineConfig
from serving.engine.llm_engine import LLMEngine
from serving.engine.sampling_params import SamplingParams

CONFIG = EngineConfig(
    num_threads=1,
    max_num_seqs=4,
    max_num_batched_tokens=32,
    max_slowdown=1000,
    speculation="off",
    wide_steps="off",
)
PROMPTS = [[3 + (7 * row + 11 * place) % 256 for place in range(3 + 8 * row)] for row in range(4)]


class _Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record.getMessage())


def examine(folder: Path) -> dict[str, Any]:
    """What the engine says of a version, and whether its answers alone equal those in company."""
    messages = _Messages()
    logger = logging.getLogger("serving.engine")
    logger.setLevel(logging.INFO)
    logger.addHandler(messages)
    try:
        engine = LLMEngine.load(folder, CONFIG)
    except ArtifactError as error:
        return {"error": str(error)}
    finally:
        logger.removeHandler(messages)
    params = [
        SamplingParams(max_tokens=6, temperature=1.0, seed=seed, ignore_eos=True, logprobs=3)
        for seed in range(len(PROMPTS))
    ]
    together = engine.generate(PROMPTS, params)
    alone = [engine.generate([one], [its])[0] for one, its in zip(PROMPTS, params, strict=True)]
    return {
        "batch_invariant": engine.batch_invariant,
        "equal_in_company": all(
            (one.token_ids, one.logprobs) == (other.token_ids, other.logprobs)
            for one, other in zip(alone, together, strict=True)
        ),
        "left_golden_at": [text for text in messages.found if "unclear token" in text],
    }


if __name__ == "__main__":
    found = {name: examine(Path(name)) for name in sys.argv[1:]}
    print(json.dumps({"instructions": instruction_sets(), "versions": found}))
