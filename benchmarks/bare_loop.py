"""A trace through the engine alone: no HTTP, no event loop, no store."""

import time
from collections import deque
from collections.abc import Sequence

from benchmarks.traffic import Request, Timeline
from serving.engine.llm_engine import LLMEngine
from serving.engine.sampling_params import SamplingParams


def serve_trace(engine: LLMEngine, trace: Sequence[Request], clients: int) -> list[Timeline]:
    """Step the engine through a trace as clients would send it: at most so many at once."""
    timelines: dict[str, Timeline] = {}
    waiting = deque(enumerate(trace))
    num_unfinished = 0
    started = time.perf_counter()
    while waiting or num_unfinished:
        now = time.perf_counter() - started
        while waiting and num_unfinished < clients and waiting[0][1].arrival <= now:
            number, request = waiting.popleft()
            params = SamplingParams(max_tokens=request.tokens, temperature=0.0, ignore_eos=True)
            engine.add_request(str(number), request.prompt, params)
            timelines[str(number)] = Timeline(now, request.tokens)
            num_unfinished += 1
        if not num_unfinished:
            time.sleep(waiting[0][1].arrival - now)
            continue
        outputs = engine.step()
        now = time.perf_counter() - started
        for output in outputs:
            timelines[output.request_id].token_times.extend([now] * len(output.token_ids))
            num_unfinished -= output.finish_reason is not None
    return [timelines[str(number)] for number in range(len(trace))]
