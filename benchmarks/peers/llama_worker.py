"""A libllama in the peers' environment, driven by JSON lines on stdin; it answers on stdout.

    .venv-peers/bin/python -m benchmarks.peers.llama_worker BINDING GGUF CACHE THREADS

BINDING is `llama_cpp` or `ik_llama_cpp`, whose ctypes declarations hardly differ; CACHE is the type
of keys and values. It imports nothing of Everloop. Every answer is a JSON line; the logits of a
step follow theirs as raw float32. End of input ends it. Shapes: T new tokens, V vocabulary.
"""

import importlib
import json
import sys
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Work = list[tuple[int, list[int]]]  # slots and their new tokens

_MODULES = {"llama_cpp": "llama_cpp.llama_cpp", "ik_llama_cpp": "ik_llama_cpp._ctypes_api"}
_CACHE_TYPES = {"f32": 0, "f16": 1, "q8_0": 8}
_BATCH = 2048  # tokens of one call, as in llama.cpp's own programs
_FLASH_ATTENTION_AUTO, _FLASH_ATTENTION_ON = -1, 1


class Worker:
    """A loaded model.

    Args:
        binding: name of the Python package.
        gguf: the model file.
        cache: f32, f16 or q8_0.
        threads: of every call.
    """

    def __init__(self, binding: str, gguf: str, cache: str, threads: int) -> None:
        self._api: Any = importlib.import_module(_MODULES[binding])
        self._api.llama_backend_init()
        params = self._api.llama_model_default_params()
        self._model = self._api.llama_model_load_from_file(gguf.encode(), params)
        if not self._model:
            raise RuntimeError(f"{gguf}: the library cannot load this file.")
        self._vocab = self._api.llama_vocab_n_tokens(self._api.llama_model_get_vocab(self._model))
        self._cache = cache
        self._threads = threads
        self._context: Any = None
        self._lengths: list[int] = []
        self._batch = self._api.llama_batch_init(_BATCH, 0, 1)

    def open(self, slots: int, capacity: int) -> None:
        """Replace the context by an empty one.

        Args:
            slots: rows that it can hold.
            capacity: tokens of each.
        """
        if self._context:
            self._api.llama_free(self._context)
        params = self._api.llama_context_default_params()
        params.n_ctx = slots * capacity
        params.n_batch = _BATCH
        params.n_seq_max = slots
        params.n_threads = params.n_threads_batch = self._threads
        params.type_k = params.type_v = _CACHE_TYPES[self._cache]
        if hasattr(params, "flash_attn_type"):  # llama.cpp: only it reads a quantized cache
            quantized = self._cache == "q8_0"
            params.flash_attn_type = _FLASH_ATTENTION_ON if quantized else _FLASH_ATTENTION_AUTO
        else:
            params.flash_attn = True
        self._context = self._api.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError(f"no context for {slots} rows of {capacity} tokens.")
        self._lengths = [0] * slots

    def clear(self) -> None:
        """Forget what the rows hold."""
        if hasattr(self._api, "llama_memory_clear"):
            self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)
        else:
            self._api.llama_kv_cache_clear(self._context)
        self._lengths = [0] * len(self._lengths)

    def step(self, work: Work) -> Iterator[Logits]:
        """Run new tokens of some rows, as many as fit in each call.

        Yields:
            [T, V] of every call, in the order of `work`.
        """
        tokens = [(slot, token, True) for slot, new in work for token in new]
        for start in range(0, len(tokens), _BATCH):
            chunk = tokens[start : start + _BATCH]
            self._decode(chunk)
            logits = np.empty((len(chunk), self._vocab), np.float32)
            for place in range(len(chunk)):
                pointer = self._api.llama_get_logits_ith(self._context, place)
                logits[place] = np.ctypeslib.as_array(pointer, (self._vocab,))
            yield logits

    def generate(self, work: Work) -> None:
        """Run new tokens; only the last of each row gets logits, which are waited for and left."""
        tokens = [
            (slot, token, place == len(new) - 1)
            for slot, new in work
            for place, token in enumerate(new)
        ]
        for start in range(0, len(tokens), _BATCH):
            self._decode(tokens[start : start + _BATCH])
        last = (len(tokens) - 1) % _BATCH
        self._api.llama_get_logits_ith(self._context, last)

    def _decode(self, tokens: list[tuple[int, int, bool]]) -> None:
        """Run (slot, token, whether logits are wanted)."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for place, (slot, token, wanted) in enumerate(tokens):
            batch.token[place] = token
            batch.pos[place] = self._lengths[slot]
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = slot
            batch.logits[place] = wanted
            self._lengths[slot] += 1
        code = self._api.llama_decode(self._context, batch)
        if code:
            raise RuntimeError(f"llama_decode gave {code} for {len(tokens)} tokens.")

    def time_decode(self, prompts: list[list[int]], tokens: int) -> float:
        """Seconds of so many steps of all rows together, after their prompts and one step more."""
        self.open(len(prompts), len(prompts[0]) + tokens + 1)
        self.generate(list(enumerate(prompts)))
        started = 0.0
        for number in range(tokens + 1):
            if number == 1:
                started = time.perf_counter()
            place = number % len(prompts[0])
            self.generate([(slot, [prompt[place]]) for slot, prompt in enumerate(prompts)])
        return time.perf_counter() - started

    def time_prefill(self, prompt: list[int]) -> float:
        """Seconds of a prompt, after its first tokens to warm up."""
        self.open(1, len(prompt))
        seconds = 0.0
        for tokens in (prompt[:32], prompt):
            self.clear()
            started = time.perf_counter()
            self.generate([(0, tokens)])
            seconds = time.perf_counter() - started
        return seconds


def answer(worker: Worker, request: dict[str, Any], out: BinaryIO) -> None:
    """Do what a line asks for and write the answer."""
    task = request["task"]
    if task == "step":
        chunks = list(worker.step(request["work"]))
        _write(out, [sum(map(len, chunks)), chunks[0].shape[1]])
        for chunk in chunks:
            out.write(chunk.data)
        out.flush()
    elif task == "open":
        _write(out, worker.open(request["slots"], request["capacity"]))
    elif task == "clear":
        _write(out, worker.clear())
    elif task == "decode":
        _write(out, worker.time_decode(request["prompts"], request["tokens"]))
    else:
        _write(out, worker.time_prefill(request["prompt"]))


def _write(out: BinaryIO, value: object) -> None:
    out.write(json.dumps(value).encode() + b"\n")
    out.flush()


def main() -> None:
    """Load, say so, and answer until the input ends."""
    binding, gguf, cache, threads = sys.argv[1:]
    worker = Worker(binding, gguf, cache, int(threads))
    _write(sys.stdout.buffer, "ready")
    for line in sys.stdin:
        answer(worker, json.loads(line), sys.stdout.buffer)


if __name__ == "__main__":
    main()
