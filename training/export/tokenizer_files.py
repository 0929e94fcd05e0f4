"""The tokenizer and the chat template of a checkpoint, as a model version keeps them.

Only `tokenizer.json` is read: the files of slow tokenizers need their own library in the service.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from everloop.chat import FILE_NAME as CHAT_TEMPLATE_FILE
from everloop.chat import ChatTemplate
from everloop.errors import ArtifactError
from everloop.text_files import read_text_file

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
_SLOW_FILES = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
_DEFAULT_TEMPLATE = "default"


def read_tokenizer(checkpoint: Path, vocab_size: int) -> Tokenizer:
    """Read the tokenizer of a checkpoint.

    Special tokens beyond the model's table are left out: text models that share the tokenizer of a
    larger one, such as Gemma 3, name tokens of images that they cannot see.

    Raises:
        ArtifactError: there is none that can be read, or it has more tokens than the model.
    """
    path = checkpoint / TOKENIZER_FILE
    if not path.is_file():
        slow = [name for name in _SLOW_FILES if (checkpoint / name).is_file()]
        found = f"; {slow[0]} is of a slow tokenizer" if slow else ""
        raise ArtifactError(
            f'{path} is missing{found}. Write it with: python -c "from transformers import '
            f"AutoTokenizer as A; f='{checkpoint}'; A.from_pretrained(f).save_pretrained(f)\""
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ArtifactError(f"{path} is no tokenizer: {error}. Copy it again.") from error
    if tokenizer.get_vocab_size() <= vocab_size:
        return tokenizer
    if tokenizer.get_vocab_size(with_added_tokens=False) > vocab_size:
        raise ArtifactError(
            f"{path} has {tokenizer.get_vocab_size():,} tokens, the model knows {vocab_size:,}. "
            "Use the tokenizer that the model was trained with."
        )
    content: dict[str, Any] = json.loads(path.read_bytes())
    content["added_tokens"] = [
        token for token in content["added_tokens"] if token["id"] < vocab_size
    ]
    return Tokenizer.from_str(json.dumps(content))


def copy_tokenizer(checkpoint: Path, folder: Path, vocab_size: int) -> None:
    """Copy the tokenizer's files; write the chat template to its own file, wherever it stands.

    A plain completion model has no chat template.

    Raises:
        ArtifactError: as of `read_tokenizer`, or the chat template cannot be used.
    """
    kept = read_tokenizer(checkpoint, vocab_size)
    whole = Tokenizer.from_file(str(checkpoint / TOKENIZER_FILE))
    if kept.get_vocab_size() < whole.get_vocab_size():
        kept.save(str(folder / TOKENIZER_FILE))
    else:
        shutil.copyfile(checkpoint / TOKENIZER_FILE, folder / TOKENIZER_FILE)
    if (checkpoint / CONFIG_FILE).is_file():
        shutil.copyfile(checkpoint / CONFIG_FILE, folder / CONFIG_FILE)
    template = read_chat_template(checkpoint)
    if template is not None:
        (folder / CHAT_TEMPLATE_FILE).write_text(template, encoding="utf-8")


def read_chat_template(checkpoint: Path) -> str | None:
    """Find a checkpoint's chat template: in a file of its own, or in the tokenizer's config.

    Raises:
        ArtifactError: it cannot be used; with the reason.
    """
    template = _template_text(checkpoint)
    if template is not None:
        ChatTemplate(template).check()
    return template


def _template_text(checkpoint: Path) -> str | None:
    path = checkpoint / CHAT_TEMPLATE_FILE
    if path.is_file():
        return read_text_file(path)
    if not (checkpoint / CONFIG_FILE).is_file():
        return None
    config: dict[str, Any] = json.loads((checkpoint / CONFIG_FILE).read_bytes())
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get(_DEFAULT_TEMPLATE)
    return template
