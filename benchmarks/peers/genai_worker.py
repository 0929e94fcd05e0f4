"""onnxruntime-genai in the peers' environment, driven by JSON lines on stdin and stdout.

    .venv-peers/bin/python -m benchmarks.peers.genai_worker MODEL_FOLDER THREADS

It imports nothing of Everloop. One request a line, one answer a line; end of input ends it.
Shapes: B rows, S tokens of the longest prompt.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime_genai as og

Request = dict[str, object]
Times = list[float]


class Worker:
    """A loaded model.

    Args:
        folder: what onnxruntime-genai's model builder wrote.
        threads: of the session.
    """

    def __init__(self, folder: str, threads: int) -> None:
        settings = json.loads(Path(folder, "genai_config.json").read_text(encoding="utf-8"))
        self._pad = int(settings["model"]["pad_token_id"])
        config = og.Config(folder)
        options = {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._model = og.Model(config)

    def generate(self, prompts: list[list[int]], tokens: int) -> Times:
        """Generate greedily, all rows together; give the time of every step's end.

        Args:
            prompts: padded on the right to the longest.
            tokens: steps; a row's end token is masked until then.
        """
        length = max(map(len, prompts))
        batch = np.full((len(prompts), length), self._pad, np.int32)
        for row, prompt in enumerate(prompts):
            batch[row, : len(prompt)] = prompt
        params = og.GeneratorParams(self._model)
        total = length + tokens
        params.set_search_options(
            max_length=total, min_length=total, batch_size=len(prompts), do_sample=False
        )
        generator = og.Generator(self._model, params)
        generator.append_tokens(batch)
        times = []
        for _ in range(tokens):
            generator.generate_next_token()
            times.append(time.perf_counter())
        return times

    def serve_trace(
        self, arrivals: Times, prompts: list[list[int]], tokens: list[int], max_rows: int
    ) -> list[Times]:
        """Serve requests as they arrive, in static batches: who comes later waits for all rows.

        Args:
            arrivals: seconds from the start, rising.
            prompts, tokens: of each request.
            max_rows: of a batch.

        Returns:
            For each request the seconds from the start at which each of its tokens was there.
        """
        results: list[Times] = []
        started = time.perf_counter()
        while len(results) < len(arrivals):
            first = len(results)
            now = time.perf_counter() - started
            if arrivals[first] > now:
                time.sleep(arrivals[first] - now)
                continue
            arrived = sum(arrival <= now for arrival in arrivals)
            batch = slice(first, min(arrived, first + max_rows))
            times = self.generate(prompts[batch], max(tokens[batch]))
            results += [[moment - started for moment in times[:count]] for count in tokens[batch]]
        return results


def answer(worker: Worker, request: Request) -> object:
    """Do what a line asks for."""
    if request["task"] == "trace":
        return worker.serve_trace(
            request["arrivals"], request["prompts"], request["tokens"], request["max_rows"]
        )
    started = time.perf_counter()
    times = worker.generate(request["prompts"], request["tokens"])
    return [started, *times]


def main() -> None:
    """Load, say so, and answer until the input ends."""
    worker = Worker(sys.argv[1], int(sys.argv[2]))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(worker, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
