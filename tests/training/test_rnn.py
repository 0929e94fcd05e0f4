import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from everloop.errors import ConfigError
from training.pretrained import load_config, load_model
from training.rnn import RnnConfig, RnnForCausalLM

CELLS = ("lstm", "gru")


def make_model(cell: str, **settings: object) -> RnnForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 24, "initializer_range": 0.5}
    return RnnForCausalLM(RnnConfig(cell=cell, **(sizes | settings))).eval()


def tokens(rows: int, count: int) -> torch.Tensor:
    return torch.randint(1, 50, (rows, count), generator=torch.Generator().manual_seed(1))


def greedy(model: RnnForCausalLM, prompt: torch.Tensor, count: int) -> list[int]:
    """The slow obvious way: the whole text again for every token."""
    ids = prompt[None]
    for _ in range(count):
        following = model(ids).logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, following], dim=1)
    return ids[0, len(prompt) :].tolist()


@pytest.mark.parametrize("cell", CELLS)
def test_save_and_load_give_the_same_model(
    tmp_path: Path, cell: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model = make_model(cell, dropout=0.5, max_position_embeddings=128)
    model.save_pretrained(tmp_path)
    capfd.readouterr()

    loaded = load_model(tmp_path)

    assert isinstance(loaded, RnnForCausalLM)
    assert capfd.readouterr().err == ""  # no bars of the library
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(loaded(tokens(2, 9)).logits, model(tokens(2, 9)).logits)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["RnnForCausalLM"]
    assert (config["model_type"], config["cell"]) == ("rnn", cell)
    assert load_config(tmp_path).max_position_embeddings == 128


@pytest.mark.parametrize("cell", CELLS)
def test_generate_continues_as_full_passes_do(cell: str) -> None:
    model, prompts = make_model(cell), tokens(2, 7)

    generated = model.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=10, do_sample=False
    )

    assert generated[:, 7:].tolist() == [greedy(model, prompt, 10) for prompt in prompts]


@pytest.mark.parametrize("cell", CELLS)
def test_generate_takes_prompts_padded_on_the_left(cell: str) -> None:
    model, prompts = make_model(cell), tokens(2, 9)
    mask = torch.ones_like(prompts)
    mask[0, :4] = 0

    generated = model.generate(
        prompts, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0
    )

    assert generated[0, 9:].tolist() == greedy(model, prompts[0, 4:], 8)
    assert generated[1, 9:].tolist() == greedy(model, prompts[1], 8)


def test_generate_with_beams_reorders_the_state() -> None:
    model, prompt = make_model("lstm"), tokens(1, 5)
    settings = {"attention_mask": torch.ones_like(prompt), "num_beams": 4, "max_new_tokens": 6}

    with_state = model.generate(prompt, do_sample=False, **settings)
    without = model.generate(prompt, do_sample=False, use_cache=False, **settings)

    assert with_state.tolist() == without.tolist()


@pytest.mark.parametrize("cell", CELLS)
def test_state_goes_on_where_a_text_was_cut(cell: str) -> None:
    model, ids = make_model(cell), tokens(3, 12)

    first = model(ids[:, :5], use_cache=True)
    second = model(ids[:, 5:], past_key_values=first.past_key_values, use_cache=True)

    whole = model(ids, use_cache=True)
    torch.testing.assert_close(second.logits, whole.logits[:, 5:], atol=1e-6, rtol=0)
    for part, expected in zip(second.past_key_values, whole.past_key_values, strict=True):
        torch.testing.assert_close(part, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("cell", CELLS)
def test_packed_documents_give_what_each_gives_alone(cell: str) -> None:
    model, ids = make_model(cell), tokens(2, 10)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 0, 0, 1, 2]])

    packed = model(ids, position_ids=positions, use_cache=True)

    for row, borders in ((0, (0, 3, 10)), (1, (0, 6, 7, 10))):
        for start, end in pairwise(borders):
            alone = model(ids[row : row + 1, start:end], use_cache=True)
            got = packed.logits[row, start:end]
            torch.testing.assert_close(got, alone.logits[0], atol=1e-6, rtol=0)
        for part, expected in zip(packed.past_key_values, alone.past_key_values, strict=True):
            torch.testing.assert_close(part[:, row], expected[:, 0], atol=1e-6, rtol=0)


def test_first_document_of_a_row_goes_on_from_the_given_state() -> None:
    model, ids = make_model("gru"), tokens(1, 9)
    state = model(ids[:, :4], use_cache=True).past_key_values
    positions = torch.tensor([[4, 5, 0, 1, 2]])

    logits = model(ids[:, 4:], past_key_values=state, position_ids=positions).logits

    torch.testing.assert_close(logits[:, :2], model(ids[:, :6]).logits[:, 4:], atol=1e-6, rtol=0)
    torch.testing.assert_close(logits[:, 2:], model(ids[:, 6:]).logits, atol=1e-6, rtol=0)


def test_padding_on_the_right_changes_no_logits_and_gives_no_state() -> None:
    model, ids = make_model("lstm"), tokens(1, 8)
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]])

    logits = model(ids, attention_mask=mask).logits

    torch.testing.assert_close(logits[:, :5], model(ids[:, :5]).logits, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="pad the rows on the left"):
        model(ids, attention_mask=mask, use_cache=True)


def test_labels_give_the_loss_of_the_next_token() -> None:
    model, ids = make_model("gru"), tokens(2, 6)
    labels = ids.clone()
    labels[0, :3] = -100

    loss = model(ids, labels=labels).loss

    logits = model(ids).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:])
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    halved = model(ids, labels=labels, num_items_in_batch=16).loss
    assert halved.item() == pytest.approx(expected.item() * 8 / 16, abs=1e-6)


def test_first_weights_let_an_lstm_remember() -> None:
    rnn = make_model("lstm").model.rnn

    assert rnn.bias_ih_l1.tolist() == [0.0] * 24 + [1.0] * 24 + [0.0] * 48
    assert rnn.bias_hh_l1.tolist() == [0.0] * 96
    gate = rnn.weight_hh_l0[:24]
    torch.testing.assert_close(gate @ gate.T, torch.eye(24), atol=1e-5, rtol=0)


def test_dropout_acts_in_training_only() -> None:
    model, ids = make_model("lstm", dropout=0.5), tokens(1, 4)

    assert torch.equal(model(ids).logits, model(ids).logits)
    model.train()
    assert not torch.equal(model(ids).logits, model(ids).logits)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cell": "rnn"}, "cell must be one of lstm, gru, got 'rnn'"),
        ({"hidden_size": 0}, "hidden_size must be at least 1, got 0"),
    ],
)
def test_config_refuses_what_is_no_model(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RnnConfig(**settings)


def test_untied_model_has_a_head_of_its_own(tmp_path: Path) -> None:
    make_model("gru", tie_word_embeddings=False).save_pretrained(tmp_path)

    loaded = load_model(tmp_path)

    assert loaded.lm_head.weight is not loaded.model.embed_tokens.weight
    assert isinstance(AutoModelForCausalLM.from_config(loaded.config), RnnForCausalLM)
