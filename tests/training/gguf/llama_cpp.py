"""llama.cpp's code, from the wheel ik-llama-cpp-python: what it makes of a GGUF file."""

import importlib.util
import logging
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

NEAR = 1e-3  # logits closer than this may change places between two ways of adding


def needs_llama_cpp() -> None:
    """Skip the test without the wheel, which not every platform has."""
    if importlib.util.find_spec("ik_llama_cpp") is None:
        skip_outside_ci("ik-llama-cpp-python is not installed")


def skip_outside_ci(reason: str) -> None:
    """Skip the test, except in CI, where everything that a test needs must be there."""
    if os.environ.get("CI") != "true":
        pytest.skip(reason)


class LlamaCpp:
    """One model in llama.cpp, on one thread, in float32 but for cached values."""

    def __init__(self, path: Path, *, context: int = 512) -> None:
        logging.getLogger("ik_llama_cpp").setLevel(logging.ERROR)
        from ik_llama_cpp import _ctypes_api as api
        from ik_llama_cpp._internals import IkModel

        self._api = api
        self._model = IkModel(str(path))
        params = api.llama_context_default_params()
        params.n_ctx = params.n_batch = context
        params.n_threads = params.n_threads_batch = 1
        params.type_k = 0  # GGML_TYPE_F32; for values it insists on f16
        params.flash_attn = False  # which asserts on processors without AVX-VNNI
        self._context = api.llama_init_from_model(self._model.model, params)
        assert self._context, "llama.cpp made no context"

    def close(self) -> None:
        self._api.llama_free(self._context)
        self._model.close()

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Tokens of a text, without bos."""
        if not text:
            return []
        return self._model.tokenize(text, add_bos=False, special=special)

    def logits(self, tokens: list[int], first: int) -> np.ndarray:
        """Logits after every token from the first-th on, of one text computed at once."""
        api = self._api
        api.llama_kv_cache_clear(self._context)
        batch = api.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for place, token in enumerate(tokens):
            batch.token[place], batch.pos[place] = token, place
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            batch.logits[place] = place >= first
        assert api.llama_decode(self._context, batch) == 0
        api.llama_batch_free(batch)
        rows = [
            np.ctypeslib.as_array(
                api.llama_get_logits_ith(self._context, place), (self._model.n_vocab,)
            ).copy()
            for place in range(first, len(tokens))
        ]
        return np.array(rows)


def quantize(source: Path, target: Path, kind: str) -> None:
    """Write a GGUF file anew in another type with llama.cpp's own program."""
    import ik_llama_cpp

    program = Path(ik_llama_cpp.__file__).parent / "bin" / "llama-quantize"
    command = [str(program), "--allow-requantize", str(source), str(target), kind, "2"]
    subprocess.run(command, check=True, capture_output=True)


def agreement(llama: LlamaCpp, prompts: list[list[int]], answers: list[list[int]]) -> float:
    """Share of greedy tokens that were compared; all compared ones are equal, or it fails.

    An answer is compared up to the first place whose two best logits lie within `NEAR`: from there
    on both sides may go their own ways.
    """
    compared = 0
    for prompt, answer in zip(prompts, answers, strict=True):
        logits = llama.logits(prompt + answer[:-1], len(prompt) - 1)
        best = np.sort(logits, axis=1)
        near = best[:, -1] - best[:, -2] < NEAR
        length = int(near.argmax()) if near.any() else len(answer)
        assert logits.argmax(axis=1)[:length].tolist() == answer[:length]
        compared += length
    return compared / sum(map(len, answers))
