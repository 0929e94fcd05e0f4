"""The licence of weights from elsewhere, as their own files name it."""

import re
from pathlib import Path

from everloop.errors import ArtifactError
from training.checkpoint import SIDECAR, read_record

# Source: Hugging Face, model cards: metadata in YAML between two lines of dashes.
_CARD = re.compile(r"\A---\s*\n(.*?)^---\s*$", re.DOTALL | re.MULTILINE)
_FIELD = re.compile(r"^license(?:_name)?:\s*[\"']?([^\s\"'#]+)", re.MULTILINE)
_MOST_CHARACTERS = 100_000


def read_licence(checkpoint: Path) -> str | None:
    """What the import recorded, or the model card says; None where nothing is named."""
    if (checkpoint / SIDECAR).is_file():
        recorded = read_record(checkpoint).config.get("import.licence")
        if recorded:
            return recorded
    try:
        with (checkpoint / "README.md").open(encoding="utf-8", errors="replace") as file:
            card = _CARD.match(file.read(_MOST_CHARACTERS))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtifactError(f"{checkpoint / 'README.md'} cannot be read: {error}.") from error
    named = _FIELD.findall(card[1]) if card else []
    return next((name for name in named if name != "other"), None)
