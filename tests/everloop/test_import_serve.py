"""`everloop import` and `everloop serve` as a user runs them: what a model of each family answers
through the official client is what transformers' own `generate` says."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from serving import launch
from tests.tiny_model import LLAMA3_ROPE, make_tiny_checkpoint
from training.pretrained import load_model, quiet_transformers

LONG_ROPE = LLAMA3_ROPE | {"original_max_position_embeddings": 64}
# How the checkpoint of each family is stored; 16 bits are always in shards.
STORED: dict[str, dict[str, object]] = {
    "llama": {"dtype": torch.bfloat16, "rope_parameters": LONG_ROPE},
    "qwen2": {},
    "qwen3": {"is_tied": False},
    "mistral": {"dtype": torch.float16, "is_tied": False},
    "gemma3": {"dtype": torch.bfloat16},
    "gpt2": {},
    "lstm": {"is_tied": False},
    "gru": {"dtype": torch.float16},
}
TEXT = "".join(f"The value of row {number} is {number * number}.\n" for number in range(400))
CHAT = [{"role": "user", "content": "What is a list?"}]
PROMPT = TEXT[:300]  # more than one chunk, and far wider than the windows of 24
NUM_TOKENS = 24
EVERLOOP = [sys.executable, "-m", "everloop"]


def make_checkpoint(folder: Path, family: str, dtype: object = None, **settings: object) -> Path:
    checkpoint = make_tiny_checkpoint(folder, family=family, max_model_len=512, **settings)
    if isinstance(dtype, torch.dtype):
        model = load_model(checkpoint).to(dtype)
        (checkpoint / "model.safetensors").unlink()
        with quiet_transformers():
            model.save_pretrained(checkpoint, max_shard_size="100KB")
        assert len(list(checkpoint.glob("*.safetensors"))) > 1
    return checkpoint


def import_folder(home: Path, checkpoint: Path, text: Path) -> str:
    """The tag that `everloop import` prints."""
    options = ["--home", str(home), "--text", str(text), "--precision", "fp32", "--json"]
    command = [*EVERLOOP, "import", str(checkpoint), *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    tag: str = json.loads(run.stdout)["model_version"]
    return tag


@contextmanager
def serving(home: Path) -> Iterator[openai.OpenAI]:
    """`everloop serve` on a free port until the block ends; then it must end well."""
    port = launch.free_port()
    options = ["--home", str(home), "--port", str(port), "--set", "engine.num_threads=1"]
    with (home / "server.log").open("ab") as log:
        server = subprocess.Popen(
            [*EVERLOOP, "serve", *options], stdout=log, stderr=log, start_new_session=True
        )
    try:
        launch.wait_ready(f"http://127.0.0.1:{port}", 120, server)
        with openai.OpenAI(
            base_url=f"http://127.0.0.1:{port}/v1",
            api_key="unused",
            max_retries=0,
            timeout=60,
            http_client=openai.DefaultHttpxClient(trust_env=False),
        ) as client:
            yield client
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    finally:
        if server.poll() is None:
            server.kill()
            server.wait(30)


def ask_chat(client: openai.OpenAI, tag: str) -> tuple[str, str]:
    """The answer to CHAT at once, and in pieces put together."""
    fields = {"model": tag, "messages": CHAT, "max_tokens": NUM_TOKENS, "temperature": 0}
    fields["extra_body"] = {"ignore_eos": True}
    whole = client.chat.completions.create(**fields)
    with client.chat.completions.create(stream=True, **fields) as chunks:
        parts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    return whole.choices[0].message.content or "", "".join(parts)


def ask_completion(client: openai.OpenAI, tag: str) -> tuple[str, str]:
    """The continuation of PROMPT at once, and in pieces put together."""
    fields = {"model": tag, "prompt": PROMPT, "max_tokens": NUM_TOKENS, "temperature": 0}
    fields["extra_body"] = {"ignore_eos": True}
    whole = client.completions.create(**fields)
    with client.completions.create(stream=True, **fields) as chunks:
        parts = [chunk.choices[0].text for chunk in chunks]
    return whole.choices[0].text, "".join(parts)


def generate(model: PreTrainedModel, checkpoint: Path) -> list[str]:
    """What transformers says to CHAT and PROMPT, by its own template, tokenizer and loop."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    chat = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    texts = []
    for prompt in (chat, PROMPT):
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NUM_TOKENS,
            do_sample=False,
            eos_token_id=None,
        )
        texts.append(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
    return texts


def is_said(text: str, expected: str) -> bool:
    """Whether a server said it: it sends no character that the last token leaves unfinished."""
    return text in (expected, expected.removesuffix("\N{REPLACEMENT CHARACTER}"))


@pytest.mark.slow
@pytest.mark.parametrize("family", STORED)
def test_imported_model_answers_as_generate_does(tmp_path: Path, family: str) -> None:
    checkpoint = make_checkpoint(tmp_path / family, family, **STORED[family])
    text = tmp_path / "text.md"
    text.write_text(TEXT, encoding="utf-8")
    home = tmp_path / "home"
    expected = generate(load_model(checkpoint, attn_implementation="eager"), checkpoint)

    tag = import_folder(home, checkpoint, text)
    with serving(home) as client:
        assert [model.id for model in client.models.list()] == [family, "everloop", tag]
        answers = [ask_chat(client, tag), ask_completion(client, family)]

    for (whole, streamed), text in zip(answers, expected, strict=True):
        assert is_said(whole, text)
        assert streamed == whole
