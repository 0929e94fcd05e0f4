from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from everloop.errors import DataError
from everloop.manifest import Golden
from tests.tiny_model import GOLDEN_PROMPTS
from training.export.architecture import read_architecture
from training.export.golden import greedy, make_golden
from training.export.graph import write_graph
from training.export.session import ReferenceRunner, open_session
from training.export.weights import Weights
from training.export.wide_graph import write_wide_graph


@pytest.fixture
def tokenizer(tiny_checkpoint: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_checkpoint / "tokenizer.json"))


def make(
    session: ort.InferenceSession,
    tokenizer: Tokenizer,
    prompts: Sequence[str] = GOLDEN_PROMPTS,
    *,
    wide: ort.InferenceSession | None = None,
    max_model_len: int = 128,
) -> Golden:
    return make_golden(
        session,
        tokenizer,
        prompts,
        wide=wide,
        max_model_len=max_model_len,
        empty_prompt_token_id=0,
    )


def test_make_golden_continues_as_transformers_does(
    tiny_checkpoint: Path, tiny_session: ort.InferenceSession, tokenizer: Tokenizer
) -> None:
    golden = make(tiny_session, tokenizer)
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, attn_implementation="eager")

    assert len(golden.cases) == 3
    for case, prompt in zip(golden.cases, GOLDEN_PROMPTS, strict=True):
        assert tokenizer.decode(case.prompt_token_ids, skip_special_tokens=False) == prompt
        assert len(case.completion_token_ids) == 16
        generated = model.generate(
            torch.tensor([case.prompt_token_ids]),
            attention_mask=torch.ones(1, len(case.prompt_token_ids), dtype=torch.long),
            max_new_tokens=16,
            do_sample=False,
            eos_token_id=None,
        )
        assert tuple(generated[0, -16:].tolist()) == case.completion_token_ids


def test_make_golden_gives_the_lead_of_every_token(
    tiny_session: ort.InferenceSession, tokenizer: Tokenizer
) -> None:
    golden = make(tiny_session, tokenizer)

    case = golden.cases[1]
    whole = ReferenceRunner(tiny_session, slots=1, capacity=128).step(
        {0: case.prompt_token_ids + case.completion_token_ids[:-1]}
    )[0][-16:]
    best = np.sort(whole, axis=-1)
    assert case.leads == pytest.approx(best[:, -1] - best[:, -2], abs=1e-4)
    assert golden.clear_lead == 1e-3  # of fp32: far above its rounding


def test_make_golden_calls_clear_what_rounded_activations_cannot_change(
    tiny_checkpoint: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    architecture, weights = read_architecture(tiny_checkpoint), Weights.read(tiny_checkpoint)
    graph = write_graph(architecture, weights, tmp_path, precision="int8", positions=160)
    wide = write_wide_graph(graph, tmp_path / "wide.onnx")
    assert wide is not None
    sessions = [open_session(graph), open_session(wide)]

    golden = make(sessions[0], tokenizer, wide=sessions[1])

    differences = []
    for case in golden.cases:
        tokens = case.prompt_token_ids + case.completion_token_ids[:-1]
        rounded, whole = (
            ReferenceRunner(session, slots=1, capacity=128).step({0: tokens})[0][-16:]
            for session in sessions
        )
        differences.append(np.abs(rounded - whole).max())
    assert golden.clear_lead == pytest.approx(max(differences), rel=0.2)
    assert 1e-3 < golden.clear_lead < 1


def test_make_golden_keeps_the_end_of_a_long_prompt(
    tiny_session: ort.InferenceSession, tokenizer: Tokenizer
) -> None:
    golden = make(tiny_session, tokenizer, ["a" * 200 + "b", "", "c"], max_model_len=48)

    long, empty, _ = golden.cases
    assert tokenizer.decode(long.prompt_token_ids) == "a" * 31 + "b"
    assert empty.prompt_token_ids == (0,)


def test_make_golden_refuses_too_few_prompts(
    tiny_session: ort.InferenceSession, tokenizer: Tokenizer
) -> None:
    with pytest.raises(DataError, match="expected at least 3, got 2"):
        make(tiny_session, tokenizer, ["a", "b"])


def test_greedy_of_int8_follows_the_int8_graph(
    tiny_checkpoint: Path, build: Callable[..., ort.InferenceSession], tokens: list[int]
) -> None:
    session = build(tiny_checkpoint, "int8")

    logits = greedy(ReferenceRunner(session, slots=1, capacity=100), tokens[:20], 8)

    completion = logits.argmax(axis=-1).tolist()
    whole = ReferenceRunner(session, slots=1, capacity=100).step({0: tokens[:20] + completion})[0]
    assert whole.argmax(axis=-1)[19:-1].tolist() == completion
