import os

import pytest

from everloop.errors import ConfigError
from everloop.settings import RunFile
from serving.engine.config import EngineConfig


def test_engine_config_takes_as_many_threads_as_it_may_use() -> None:
    assert 1 <= EngineConfig().threads <= (os.cpu_count() or 1)
    assert EngineConfig(num_threads=3).threads == 3


def test_engine_config_memory_limit_is_what_is_free_unless_set() -> None:
    assert EngineConfig().memory_limit_bytes > 0
    assert EngineConfig(max_memory_bytes=5).memory_limit_bytes == 5


def test_engine_config_refuses_a_budget_in_which_not_every_sequence_can_decode() -> None:
    run = RunFile("x.toml", {"engine": {"max_num_seqs": 64, "max_num_batched_tokens": 32}})
    with pytest.raises(ConfigError, match=r"max_num_batched_tokens \(32\) must be at least"):
        run.table("engine", EngineConfig)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("max_num_seqs", 0, "engine.max_num_seqs: .*greater than or equal to 1"),
        ("max_num_seqs", "8", "engine.max_num_seqs: .*valid integer"),
        ("max_num_seq", 8, "engine.max_num_seq; did you mean max_num_seqs?"),
    ],
)
def test_engine_config_names_the_wrong_key(key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunFile("x.toml", {"engine": {key: value}}).table("engine", EngineConfig)
