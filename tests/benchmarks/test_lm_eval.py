"""lm-eval, as a user runs it, against a real `everloop serve`; transformers is the reference."""

import itertools
import json
import os
import re
import string
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from benchmarks.lm_eval import tasks as lm_eval_tasks
from everloop.errors import DataError
from everloop.registry import Registry
from everloop.settings import Home
from serving import launch
from tests.tiny_model import make_tiny_version
from training.generate import generate
from training.pretrained import load_network
from training.scoring import log_likelihoods
from training.tasks import Task

ROOT = Path(__file__).parents[2]
MAX_MODEL_LEN = 256
QUESTIONS = ("What is a list?", "2 + 2 =", 'A "quoted" {{ word }}\nand a line', "Où est l'été ?")
END_IDS = (0, 2)


@dataclass(frozen=True)
class Served:
    url: str
    checkpoint: Path

    @property
    def network(self) -> PreTrainedModel:
        return load_network(self.checkpoint)

    def encode(self, text: str) -> list[int]:
        tokenizer = AutoTokenizer.from_pretrained(self.checkpoint)
        return list(tokenizer(text, add_special_tokens=False).input_ids)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("lm-eval")
    home = Home(folder / "home").create()
    version = make_tiny_version(folder, max_model_len=MAX_MODEL_LEN, seed=2, is_tied=False)
    Registry(home).save(version)
    url = f"http://127.0.0.1:{launch.free_port()}"
    process = launch.start(
        home,
        "127.0.0.1",
        int(url.rpartition(":")[2]),
        overrides=["engine.num_threads=1"],
        log_file=folder / "server.log",
    )
    try:
        launch.wait_ready(url, 90, process)
        yield Served(f"{url}/v1/completions", folder / "checkpoint-qwen3-2")
    finally:
        process.terminate()
        process.wait(60)


def run_lm_eval(served: Served, task: str, tasks: list[Task], folder: Path) -> tuple[dict, list]:
    """Metrics of a task, and what was found for each line of the file."""
    lines = [task.model_dump_json(exclude_none=True) for task in tasks]
    (folder / "tasks.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    model = f"base_url={served.url},model=everloop,tokenizer={served.checkpoint}"
    run = subprocess.run(
        [
            sys.executable, "-m", "lm_eval", "run", "--model", "local-completions",
            "--model_args", f"{model},max_length={MAX_MODEL_LEN},max_retries=1",
            "--include_path", "benchmarks/lm_eval", "--tasks", task,
            "--metadata", json.dumps({"tasks": str(folder / "tasks.jsonl")}),
            "--output_path", str(folder / "out"), "--log_samples",
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "NO_PROXY": "*"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    # Its table is made by a package that other pins once kept at a version without headings.
    assert re.search(rf"\|\s*Tasks\s*\|.*\n.*\n\|{task}\s*\|", run.stdout)
    (found,) = (folder / "out").glob("**/results_*.json")
    (logged,) = (folder / "out").glob(f"**/samples_{task}_*.jsonl")
    samples = [json.loads(line) for line in logged.read_text("utf-8").splitlines()]
    results = json.loads(found.read_text("utf-8"))["results"][task]
    return results, sorted(samples, key=lambda sample: sample["doc_id"])


def next_token(network: PreTrainedModel, ids: list[int]) -> int:
    with torch.inference_mode():
        return int(network(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())


@pytest.mark.slow
def test_choices_get_the_likelihoods_of_transformers(served: Served, tmp_path: Path) -> None:
    network = served.network
    # A choice after which the model wants to end: its last token must be counted all the same.
    ending = next(
        word
        for word in map("".join, itertools.product(string.ascii_letters, repeat=2))
        if next_token(network, served.encode(f"{QUESTIONS[0]} {word}")) in END_IDS
    )
    choices = (ending, "a green house", "né", "42", "nothing at all")
    tasks = [Task(prompt=prompt, choices=choices, answer=0) for prompt in QUESTIONS]
    results, samples = run_lm_eval(served, "everloop_choice", tasks, tmp_path)

    answers = [served.encode(f" {choice}") for choice in choices]
    sizes = [len(choice.encode()) for choice in choices]
    rights = []
    for task, sample in zip(tasks, samples, strict=True):
        expected = log_likelihoods(
            network, [(served.encode(task.prompt), answer) for answer in answers]
        )
        found = [float(scored[0]) for scored in sample["filtered_resps"]]
        assert found == pytest.approx(list(expected), abs=2e-3)
        rights.append(int((expected / sizes).argmax() == 0))
    assert results["acc_bytes,none"] == sum(rights) / len(rights)


@pytest.mark.slow
def test_answers_are_those_of_transformers(served: Served, tmp_path: Path) -> None:
    network, tokenizer = served.network, AutoTokenizer.from_pretrained(served.checkpoint)
    prompts = [*QUESTIONS, *(f"What is {number} + {number}?" for number in range(40))]
    asked = {
        prompt: generate(network, tokenizer, served.encode(prompt), max_new_tokens=64)
        for prompt in prompts
    }
    # The server sends no character that the last token leaves unfinished.
    asked = {prompt: text for prompt, text in asked.items() if text and text[-1] != "\ufffd"}
    assert len(asked) >= 4
    tasks = [
        Task(prompt=prompt, answer=f" {text.upper()}\n" if number % 2 else "something else")
        for number, (prompt, text) in enumerate(asked.items())
    ]
    results, samples = run_lm_eval(served, "everloop_exact", tasks, tmp_path)
    assert [sample["filtered_resps"][0].strip() for sample in samples] == list(asked.values())
    assert results["exact_match,none"] == len(asked) // 2 / len(asked)


def test_file_is_split_by_kind(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(
        '{"prompt": "2 + 2 =", "answer": "4"}\n'
        '{"prompt": "The sky is", "choices": ["blue", "green"], "answer": 0}\n',
        encoding="utf-8",
    )
    # What else lm-eval passes on, such as the model's name, is not the tasks' business.
    (written,) = lm_eval_tasks.load_exact(tasks=str(path), model="everloop")["test"]
    assert written == {"prompt": "2 + 2 =", "answer": "4"}
    (chosen,) = lm_eval_tasks.load_choice(tasks=str(path))["test"]
    assert chosen == {"prompt": "The sky is", "choices": ["blue", "green"], "answer": 0}
    assert lm_eval_tasks.score_exact(written, ["  4\n"]) == {"exact_match": 1.0}
    assert lm_eval_tasks.score_exact(written, ["5"]) == {"exact_match": 0.0}


def test_missing_file_and_kind_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no task file is given: add --metadata"):
        lm_eval_tasks.load_exact()
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"prompt": "2 + 2 =", "answer": "4"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="holds no task with choices; leave everloop_choice out"):
        lm_eval_tasks.load_choice(tasks=str(path))
