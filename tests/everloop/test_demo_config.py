"""A run's settings reach the commands that the demo starts, tables in tables included."""

from pathlib import Path

from everloop.demo_config import PRETRAIN_STEPS, SFT_STEPS, as_demo, as_overrides
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


def test_the_demo_learns_by_steps_and_the_clock_only_guards() -> None:
    run = RunFile("run", {"sft": {"max_steps": 7, "minutes": 99.0}})
    demo = as_demo(run, 10.0, set())
    assert demo.values["pretrain"] == {"max_steps": PRETRAIN_STEPS, "minutes": 5.0}
    assert demo.values["sft"] == {"max_steps": 7, "minutes": 3.0}
    assert demo.values["loop"] == {"epochs": 2.0, "minutes": 2.0}


def test_the_corpus_of_the_demo_has_the_same_budget_in_its_file() -> None:
    run = RunFile.load(Path(__file__).parents[2] / "configs" / "python-docs.toml")
    demo = as_demo(run, 12.0, set())
    assert demo.values["pretrain"]["max_steps"] == PRETRAIN_STEPS
    assert demo.values["sft"]["max_steps"] == SFT_STEPS
    assert "minutes" not in run.values["pretrain"] | run.values["sft"]
