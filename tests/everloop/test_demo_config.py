"""A run's settings reach the commands that the demo starts, tables in tables included."""

from everloop.demo_config import as_overrides
from everloop.settings import RunFile


def test_overrides_are_read_back_as_they_were() -> None:
    values = {
        "data": {
            "sources": ["python-docs"],
            "source": [{"name": "a b", "path": "x/*.txt"}, {"path": "y"}],
            "duplicates": {"near": False, "similarity": 0.5},
            "decontamination": {"sets": {"gsm8k": "eval.jsonl"}},
            "licence": 'say "MIT"',
        },
        "pretrain": {"minutes": 2.0},
    }
    overrides = as_overrides(RunFile("run", values))
    assert RunFile.load(None, tuple(overrides)).values == values
