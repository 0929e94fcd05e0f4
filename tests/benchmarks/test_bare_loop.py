import pytest

from benchmarks.bare_loop import serve_trace
from benchmarks.traffic import Request
from serving.engine.config import EngineConfig
from serving.engine.llm_engine import LLMEngine
from tests.tiny_model import make_tiny_version


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> LLMEngine:
    version = make_tiny_version(tmp_path_factory.mktemp("version"))
    config = EngineConfig(num_threads=1, max_num_seqs=4, max_num_batched_tokens=32)
    return LLMEngine.load(version, config)


def test_every_request_of_a_trace_is_answered_in_full(engine: LLMEngine) -> None:
    trace = [Request(0.0, [5, 6, 7], 4), Request(0.01, [8] * 20, 1), Request(0.02, [9, 9], 30)]
    timelines = serve_trace(engine, trace, clients=2)
    assert [len(line.token_times) for line in timelines] == [4, 1, 30]
    assert [line.tokens for line in timelines] == [4, 1, 30]
    for request, line in zip(trace, timelines, strict=True):
        assert line.sent >= request.arrival
        assert line.token_times == sorted(line.token_times)
    assert not engine.has_unfinished


def test_no_more_requests_run_than_there_are_clients(engine: LLMEngine) -> None:
    trace = [Request(0.0, [number + 5, 6], 6) for number in range(4)]
    timelines = serve_trace(engine, trace, clients=1)
    ends = [line.token_times[-1] for line in timelines]
    assert all(line.sent >= end for line, end in zip(timelines[1:], ends, strict=False))
