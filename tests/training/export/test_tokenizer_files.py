import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from everloop.errors import ArtifactError
from tests.tiny_model import make_tiny_tokenizer
from training.export.tokenizer_files import copy_tokenizer, read_tokenizer


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Tokenizer files and a chat template in a file of its own."""
    folder = tmp_path / "checkpoint"
    make_tiny_tokenizer(folder)
    return folder


def move_template(checkpoint: Path, template: object) -> None:
    """Put the chat template where older folders have it."""
    (checkpoint / "chat_template.jinja").unlink()
    path = checkpoint / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"chat_template": template}
    path.write_text(json.dumps(config), encoding="utf-8")


def copied_template(checkpoint: Path, folder: Path) -> str:
    folder.mkdir()
    copy_tokenizer(checkpoint, folder, 259)
    return (folder / "chat_template.jinja").read_text(encoding="utf-8")


def test_read_tokenizer_names_the_way_from_a_slow_one(checkpoint: Path) -> None:
    assert read_tokenizer(checkpoint, 259).get_vocab_size() == 259

    (checkpoint / "tokenizer.json").rename(checkpoint / "vocab.json")
    with pytest.raises(
        ArtifactError, match=r"vocab\.json is of a slow tokenizer\. Write it with: "
    ):
        read_tokenizer(checkpoint, 259)
    (checkpoint / "vocab.json").unlink()
    with pytest.raises(ArtifactError, match=r"tokenizer\.json is missing\. Write it with: python"):
        read_tokenizer(checkpoint, 259)


def test_read_tokenizer_refuses_a_damaged_and_a_foreign_one(checkpoint: Path) -> None:
    with pytest.raises(ArtifactError, match="has 259 tokens, the model knows 258"):
        read_tokenizer(checkpoint, 258)
    (checkpoint / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json is no tokenizer"):
        read_tokenizer(checkpoint, 259)


def test_special_tokens_beyond_the_model_are_left_out(checkpoint: Path, tmp_path: Path) -> None:
    path = checkpoint / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens(["<image>"])
    tokenizer.save(str(path))
    (tmp_path / "folder").mkdir()

    copy_tokenizer(checkpoint, tmp_path / "folder", 259)

    copied = Tokenizer.from_file(str(tmp_path / "folder" / "tokenizer.json"))
    assert read_tokenizer(checkpoint, 260).token_to_id("<image>") == 259
    assert copied.token_to_id("<image>") is None
    assert copied.token_to_id("<|im_end|>") == 2
    text = "<|im_start|>user\n<image>"
    assert copied.decode(copied.encode(text).ids, skip_special_tokens=False) == text


def test_copy_tokenizer_takes_the_template_wherever_it_stands(
    checkpoint: Path, tmp_path: Path
) -> None:
    template = (checkpoint / "chat_template.jinja").read_text(encoding="utf-8")
    assert copied_template(checkpoint, tmp_path / "file") == template

    move_template(checkpoint, "{{ messages[0].content }}")
    assert copied_template(checkpoint, tmp_path / "config") == "{{ messages[0].content }}"


def test_copy_tokenizer_takes_the_default_of_several_templates(
    checkpoint: Path, tmp_path: Path
) -> None:
    move_template(
        checkpoint,
        [{"name": "tools", "template": "tools"}, {"name": "default", "template": "plain"}],
    )

    assert copied_template(checkpoint, tmp_path / "folder") == "plain"


def test_copy_tokenizer_without_template_gives_a_completion_model(
    checkpoint: Path, tmp_path: Path
) -> None:
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        (checkpoint / name).unlink()
    (tmp_path / "folder").mkdir()

    copy_tokenizer(checkpoint, tmp_path / "folder", 259)

    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["tokenizer.json"]


def test_copy_tokenizer_refuses_a_template_that_does_not_compile(
    checkpoint: Path, tmp_path: Path
) -> None:
    (checkpoint / "chat_template.jinja").write_text("{% if %}", encoding="utf-8")

    with pytest.raises(ArtifactError, match="does not compile"):
        copied_template(checkpoint, tmp_path / "folder")
    shutil.rmtree(tmp_path / "folder")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "it takes more than 100,000 steps",
        ),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ],
)
def test_copy_tokenizer_refuses_a_template_that_cannot_be_used(
    checkpoint: Path, tmp_path: Path, template: str, reason: str
) -> None:
    (checkpoint / "chat_template.jinja").write_text(template, encoding="utf-8")

    with pytest.raises(ArtifactError, match=f"chat template cannot be used: .*{reason}"):
        copied_template(checkpoint, tmp_path / "folder")
