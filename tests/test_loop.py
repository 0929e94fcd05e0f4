"""The whole life with real parts: train, serve, feedback, retrain, promote, trace, roll back."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from everloop.lifecycle import build_data, export_version, prepare_tokens
from everloop.registry import ModelVersion
from everloop.settings import Home, RunFile
from everloop.supervisor import terminate
from everloop.train_runs import train_run
from feedback.loop import run_round
from feedback.rollout import promote, rollback
from feedback.store.store import open_store
from serving import launch

pytestmark = pytest.mark.slow

COLOURS = ("red", "green", "blue", "white", "black", "brown", "grey", "pink")
THINGS = ("door", "wall", "chair", "table", "lamp", "book", "coat", "boat", "house", "gate")
ANSWER = "I have to look at the {thing} first."
OVERRIDES = (
    "data.min_words=4",
    "data.min_characters=10",
    "data.duplicates={near = false}",
    "tokenizer.vocab_size=512",
    "model.size=1m",
    "model.context_length=96",
    "pretrain.max_steps=60",
    "pretrain.eval_every=30",
    "sft.max_steps=60",
    "sft.eval_every=30",
    "sft.muon_learning_rate=0.0035",
    "sft.adamw_learning_rate=0.0015",
    "loop.epochs=6",
    "loop.max_answer_tokens=24",
    "loop.validation_windows=64",
    "loop.num_threads=1",
    "feedback.replay_ratio=8.0",
    "trigger.cooldown_minutes=0.0",
    "trigger.min_corrections=100",
    "engine.max_num_seqs=8",
    "server.poll_seconds=0.2",
)


def corpus(folder: Path) -> Path:
    """Short texts about coloured things, and conversations that answer with the colour."""
    chance = random.Random(0)
    folder.mkdir()
    lines = []
    for number in range(240):
        colour, thing = chance.choice(COLOURS), chance.choice(THINGS)
        sentences = [
            f"The {chance.choice(THINGS)} number {number} is {chance.choice(COLOURS)} and old."
            for _ in range(12)
        ]
        lines.append(json.dumps({"text": " ".join(sentences)}))
        question = f"What colour is the {thing} number {number}?"
        turns = [("user", question), ("assistant", f"The {thing} number {number} is {colour}.")]
        messages = [{"role": role, "content": content} for role, content in turns]
        lines.append(json.dumps({"messages": messages}))
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, RunFile, ModelVersion]:
    folder = tmp_path_factory.mktemp("life")
    home = Home(folder / "home").create()
    source = corpus(folder / "corpus")
    run = RunFile.load(None, (f'data.sources=["{source}"]', *OVERRIDES))
    prepare_tokens(home, run, build_data(home, run))
    return home, run, export_version(home, run, train_run(home, run, "base", "both"))


@pytest.fixture
def client(trained: tuple[Home, RunFile, ModelVersion]) -> Iterator[openai.OpenAI]:
    home = trained[0]
    home.logs.mkdir(exist_ok=True)
    port = launch.free_port()
    overrides = [text for text in OVERRIDES if text.startswith(("engine.", "server."))]
    server = launch.start(
        home, "127.0.0.1", port, overrides=overrides, log_file=home.logs / "server.log"
    )
    try:
        launch.wait_ready(f"http://127.0.0.1:{port}", 60, server)
        with openai.OpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0
        ) as connected:
            yield connected
    finally:
        terminate([server], 40)


def ask(client: openai.OpenAI, question: str) -> tuple[str, str, str]:
    answer = client.chat.completions.create(
        model="everloop",
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=24,
    )
    return answer.id, answer.model, answer.choices[0].message.content or ""


def correct(client: openai.OpenAI, completion: str, wanted: str) -> None:
    for metric, value in (("thumbs", False), ("demonstration", wanted)):
        body = {"inference_id": completion, "metric_name": metric, "value": value}
        client.post("/feedback", body=body, cast_to=object)


def test_the_loop_closes(
    trained: tuple[Home, RunFile, ModelVersion], client: openai.OpenAI
) -> None:
    home, run, base = trained
    numbers = range(1000, 1150)
    things = [THINGS[number % len(THINGS)] for number in numbers]
    asked = []
    for number, thing in zip(numbers, things, strict=True):
        completion, model, _ = ask(client, f"How heavy is the {thing} number {number}?")
        assert model == base.tag
        correct(client, completion, ANSWER.format(thing=thing))
        asked.append(completion)

    result = run_round(home, run)

    assert result.outcome == "promoted", result.reasons
    assert result.gate is not None
    assert result.gate.numbers["quality_after"] > result.gate.numbers["quality_before"]
    assert result.deployment is not None
    assert result.deployment.status == "live"
    assert len(list(home.runs.glob("loop-*/report.html"))) == 1
    completion, model, answer = ask(client, "How heavy is the lamp number 2000?")
    assert model == result.candidate
    assert "look at the" in answer

    store = open_store(home.database_url)
    kinds = [(decision.kind, decision.verdict) for decision in store.decisions()]
    assert kinds[-1] == ("trigger", "retrain")
    assert ("gate", "promote") in kinds
    assert ("rollout", "promote") in kinds
    trace = store.trace(completion)
    assert trace.ancestors == (base.tag,)
    learnt = next(entry for entry in trace.datasets if entry.ref.use == "feedback")
    assert learnt.sources["interaction"] > 0
    assert learnt.sources["feedback"] > 0
    assert learnt.sources["document"] > 0
    rows = store.dataset_rows(learnt.ref.id)
    from_people = {source.id for row in rows for source in row.sources}
    assert from_people >= set(asked) - {completion}

    back = rollback(store, "a person prefers the old one")
    assert back.model_version == base.tag
    store.close()
    for _ in range(100):
        _, model, _ = ask(client, "How heavy is the lamp number 2001?")
        if model == base.tag:
            break
    assert model == base.tag


def test_a_second_round_waits_for_new_feedback(
    trained: tuple[Home, RunFile, ModelVersion],
) -> None:
    home, run, base = trained
    store = open_store(home.database_url)
    if store.champion() is None:
        store.record_model_version(base)
        promote(store, base.tag, "first")
    store.close()
    result = run_round(home, run)
    assert result.outcome == "waiting"
    assert "nothing to learn from" in result.reasons[0]
