"""What training must know of a tokenizer folder without loading transformers."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from everloop.errors import ArtifactError
from everloop.manifest import sha256_file
from training.tokenizer import END_OF_TEXT, FILE_NAME, IM_END, load_tokenizer

TOKENIZER_FILES = (FILE_NAME, "tokenizer_config.json", "chat_template.jinja")

_OTHER_FILES = ("special_tokens_map.json", "added_tokens.json")


@dataclass(frozen=True, slots=True)
class SpecialTokenIds:
    """Ids of the tokens that separate documents and end answers."""

    bos: int
    pad: int
    eos: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TokenizerFolder:
    """A tokenizer as it lies on disk, in a folder of its own or inside a checkpoint.

    Attributes:
        sha256: of tokenizer.json.
    """

    path: Path
    sha256: str
    vocab_size: int
    special: SpecialTokenIds

    @classmethod
    def read(cls, path: Path) -> "TokenizerFolder":
        """Read vocabulary size, special tokens and hash.

        Raises:
            ArtifactError: a file or a special token is missing.
            DataError: tokenizer.json is damaged.
        """
        for name in TOKENIZER_FILES:
            if not (path / name).is_file():
                raise ArtifactError(
                    f"{path} is no tokenizer folder: {name} is missing. Train a tokenizer first."
                )
        file = path / FILE_NAME
        tokenizer = load_tokenizer(path)
        separator = _token_id(tokenizer, END_OF_TEXT, file)
        end_of_turn = _token_id(tokenizer, IM_END, file)
        return cls(
            path=path,
            sha256=sha256_file(file),
            vocab_size=tokenizer.get_vocab_size(),
            special=SpecialTokenIds(bos=separator, pad=separator, eos=(separator, end_of_turn)),
        )

    def copy_to(self, folder: Path) -> None:
        """Copy the files byte by byte into a checkpoint."""
        copy_tokenizer(self.path, folder)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the tokenizer's files of a folder byte by byte, those that are there.

    Folders of other projects may keep the chat template in tokenizer_config.json.
    """
    for name in (*TOKENIZER_FILES, *_OTHER_FILES):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _token_id(tokenizer: Tokenizer, token: str, file: Path) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ArtifactError(f"{file}: the token {token} is missing. Train the tokenizer again.")
    return found
