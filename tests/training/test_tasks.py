from pathlib import Path

import pytest
from transformers import AutoTokenizer

from everloop.errors import DataError
from training.pretrained import load_network
from training.tasks import Task, read_tasks, run_tasks


def _write(folder: Path, *lines: str) -> Path:
    path = folder / "tasks.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_read_tasks_takes_both_kinds(tmp_path: Path) -> None:
    path = _write(
        tmp_path, '{"prompt": "2 + 2 =", "answer": "4"}', "",
        '{"prompt": "The sky is", "choices": ["blue", "green"], "answer": 0}',
    )  # fmt: skip
    first, second = read_tasks(path)
    assert (first.answer, first.choices) == ("4", None)
    assert (second.answer, second.choices) == (0, ("blue", "green"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a"}', r"tasks\.jsonl:1: not a task: Field required"),
        ('{"prompt": "a", "answer": 1}', "answer is a number, but there are no choices"),
        ('{"prompt": "a", "answer": 2, "choices": ["x", "y"]}', "must be an index below 2"),
        ("{", r"tasks\.jsonl:1: not a task"),
    ],
)
def test_read_tasks_names_the_bad_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_tasks(_write(tmp_path, line))


def test_read_tasks_refuses_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no task"):
        read_tasks(_write(tmp_path, ""))


@pytest.mark.parametrize("as_chat", [True, False])
def test_run_tasks_checks_what_the_model_says(tiny_checkpoint: Path, as_chat: bool) -> None:
    network = load_network(tiny_checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint, local_files_only=True)
    (said,) = run_tasks(
        network, tokenizer, [Task(prompt="What?", answer="x")], as_chat=as_chat, max_new_tokens=8
    )
    assert not said.is_right
    tasks = [
        Task(prompt="What?", answer=f"  {said.found.upper()} "),
        Task(prompt="What?", choices=("a string", "zzz qqq"), answer=0),
        Task(prompt="What?", choices=("zzz qqq", "a string"), answer=0),
    ]
    exact, chosen, swapped = run_tasks(network, tokenizer, tasks, as_chat=as_chat, max_new_tokens=8)
    assert exact.is_right
    assert chosen.found == swapped.found
    assert chosen.is_right != swapped.is_right
