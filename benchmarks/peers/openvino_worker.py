"""OpenVINO GenAI in the peers' environment, driven by JSON lines on stdin and stdout.

    .venv-peers/bin/python -m benchmarks.peers.openvino_worker GGUF THREADS

It imports nothing of Everloop. One request a line, one answer a line; end of input ends it.
"""

import json
import os
import sys
import time

import numpy as np
import openvino
import openvino_genai

_MAX_ROWS = 32
_MAX_TOKENS = 8_192  # of a step: the prompts of all rows together
_CACHE_GIB = 1


class Worker:
    """A loaded model.

    Args:
        gguf: the model file.
        threads: of its inference.
    """

    def __init__(self, gguf: str, threads: int) -> None:
        config = openvino_genai.SchedulerConfig()
        config.max_num_batched_tokens = _MAX_TOKENS
        config.max_num_seqs = _MAX_ROWS
        config.cache_size = _CACHE_GIB
        config.enable_prefix_caching = False
        properties = {"INFERENCE_NUM_THREADS": threads}
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(gguf, config, "CPU", properties)
        self._requests = 0

    def generate(self, prompts: list[list[int]], tokens: int) -> list[float]:
        """Generate greedily, all rows together; give the times of the start and of every step.

        Raises:
            RuntimeError: a step gave no token to some row.
        """
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = tokens
        config.ignore_eos = True
        config.do_sample = False
        handles = []
        for prompt in prompts:
            ids = openvino.Tensor(np.array([prompt], np.int64))
            handles.append(self._pipeline.add_request(self._requests, ids, config))
            self._requests += 1
        times = [time.perf_counter()]
        for _ in range(tokens):
            self._pipeline.step()
            times.append(time.perf_counter())
        got = [sum(len(out.generated_ids) for out in each.read_all()) for each in handles]
        if got != [tokens] * len(prompts) or self._pipeline.has_non_finished_requests():
            raise RuntimeError(f"{tokens} steps gave {got} tokens to the rows.")
        return times


def main() -> None:
    """Load, warm up, say so, and answer until the input ends."""
    answers = os.dup(1)
    os.dup2(2, 1)  # the library prints to stdout, too
    with os.fdopen(answers, "w", encoding="utf-8") as out:
        worker = Worker(sys.argv[1], int(sys.argv[2]))
        worker.generate([[5] * 32], 4)
        print(json.dumps("ready"), file=out, flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            times = worker.generate(request["prompts"], request["tokens"])
            print(json.dumps(times), file=out, flush=True)


if __name__ == "__main__":
    main()
