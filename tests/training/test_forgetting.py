"""How far a tuned checkpoint has moved, beside the plain formula on each conversation alone."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from everloop.errors import DataError
from everloop.records import Message
from training.encoded_rows import split_answer
from training.forgetting import answer_divergence
from training.pretrained import load_network

CONVERSATIONS = [
    (Message(role="user", content=question), Message(role="assistant", content=answer))
    for question, answer in (
        ("What is a list?", "A mutable sequence."),
        ("And a tuple?", "A sequence."),
        ("Why?", "Because nothing in it can be changed."),
    )
]


@pytest.fixture(scope="module")
def moved(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint with one matrix a tenth larger."""
    folder = tmp_path_factory.mktemp("moved") / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    tensors = load_file(folder / "model.safetensors")
    name = next(key for key in tensors if key.endswith("down_proj.weight"))
    tensors[name] *= 1.1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_checkpoint_does_not_diverge_from_itself(tiny_checkpoint: Path) -> None:
    assert answer_divergence(tiny_checkpoint, tiny_checkpoint, CONVERSATIONS) == 0.0


def test_divergence_is_that_of_every_answer_token(tiny_checkpoint: Path, moved: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    before, after = load_network(tiny_checkpoint).eval(), load_network(moved).eval()
    expected = []
    for messages in CONVERSATIONS:
        prompt, answer = split_answer(messages, tokenizer)
        ids = torch.tensor([[*prompt, *answer]])
        with torch.inference_mode():
            p, q = (network(ids).logits[0].double().softmax(-1) for network in (before, after))
        for place in range(len(prompt) - 1, len(prompt) + len(answer) - 1):
            expected.append(float((p[place] * (p[place] / q[place]).log()).sum()))

    found = answer_divergence(tiny_checkpoint, moved, CONVERSATIONS)

    assert found > 1e-6
    assert found == pytest.approx(sum(expected) / len(expected), rel=1e-3)


def test_nothing_to_measure_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(DataError, match="no conversation ends with an answer"):
        answer_divergence(tiny_checkpoint, tiny_checkpoint, [])
