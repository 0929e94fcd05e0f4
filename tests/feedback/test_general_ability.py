"""The answers of an imported model: given once, half of them learnt, the others only measured."""

from collections.abc import Sequence
from pathlib import Path

from feedback.general_ability import (
    general_answers,
    general_prompts,
    measured_half,
    replayed_half,
    whole_sentences,
)


def answered(prompts: Sequence[str]) -> list[str]:
    return [f" {prompt.upper()} " for prompt in prompts]


def test_there_are_two_hundred_different_prompts() -> None:
    prompts = general_prompts()
    assert len(prompts) == len(set(prompts)) == 200
    assert all(prompt == prompt.strip() != "" for prompt in prompts)


def test_the_model_is_asked_once(tmp_path: Path) -> None:
    path = tmp_path / "imports" / "answers.jsonl"
    calls: list[int] = []

    def ask(prompts: Sequence[str]) -> list[str]:
        calls.append(len(prompts))
        return answered(prompts)

    first = general_answers(path, ask)
    assert general_answers(path, ask) == first
    assert calls == [200]
    prompt = general_prompts()[0]
    assert [turn.content for turn in first[0]] == [prompt, prompt.upper()]


def test_what_is_measured_is_never_learnt(tmp_path: Path) -> None:
    answers = general_answers(tmp_path / "answers.jsonl", answered)
    rows, measured = replayed_half(answers, "smol:v1"), measured_half(answers)
    assert len(rows) == len(measured) == 100
    assert {row.messages for row in rows}.isdisjoint(measured)
    assert {(row.split, *row.sources) for row in rows} == {("train", rows[0].sources[0])}
    assert (rows[0].sources[0].kind, rows[0].sources[0].id) == ("model", "smol:v1")


def test_prompts_without_an_answer_are_left_out(tmp_path: Path) -> None:
    answers = general_answers(tmp_path / "answers.jsonl", lambda prompts: ["", *prompts[1:]])
    assert len(answers) == 199


def test_an_answer_that_was_cut_off_ends_with_its_last_sentence() -> None:
    assert whole_sentences("It is 3.5 m long. It was built in") == "It is 3.5 m long."
    assert whole_sentences("Why? Because!") == "Why? Because!"
    assert whole_sentences("One endless") == ""
