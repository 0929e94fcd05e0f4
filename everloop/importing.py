"""A Hugging Face folder from elsewhere becomes a saved model version.

Nothing is trained and nothing is downloaded. The folder brings no validation data, so the
precisions are compared on a text: the user's, or the newest dataset's, or Python's documentation.
"""

import logging
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.progress import Progress

from everloop.errors import ArtifactError, NotFoundError
from everloop.lifecycle import EXPORT_WINDOWS, newest_dataset
from everloop.records import Document
from everloop.registry import ModelVersion, Registry
from everloop.settings import Home, RunFile
from feedback.store.store import open_store
from training import python_docs
from training.dataset_folder import read_rows
from training.export.config import ExportConfig
from training.reading.options import ReadOptions
from training.sources import SourceConfig, find_inputs, read_input

# Tokens of prompt and answer where neither the command nor [export] says: a cache slot is reserved
# for each sequence at this length, and models of today take up to a million.
DEFAULT_MAX_MODEL_LEN = 4096
_TEXT_CHARACTERS = 8_000  # of one piece of a text file

logger = logging.getLogger(__name__)


def import_checkpoint(
    home: Home,
    run: RunFile,
    checkpoint: Path,
    *,
    text: str | None = None,
    progress: Progress | None = None,
) -> ModelVersion:
    """Export the checkpoint of a folder, save it in the model store and record it.

    Args:
        home: where the version is kept.
        run: its table [export]; a name that it does not give is that of the folder.
        checkpoint: config.json, safetensors (whole or in shards) and tokenizer.json.
        text: file, folder, pattern or URL of text to compare the precisions on.
        progress: shows the validation losses.

    Raises:
        ArtifactError: the folder is no checkpoint, or one that cannot be expressed as a graph.
        DataError: the text cannot be read, or is too short.
        RefusedError: the graph differs from torch, or a precision loses too much.
    """
    from training.export.architecture import read_architecture
    from training.export.text_windows import MAX_CONTEXT, cut_windows
    from training.export.tokenizer_files import read_tokenizer
    from training.export.version import export_checkpoint
    from training.export.weights import weight_files

    if not checkpoint.is_dir():
        raise ArtifactError(f"{checkpoint} is no folder. Name the folder that holds config.json.")
    weight_files(checkpoint)
    architecture = read_architecture(checkpoint)
    tokenizer = read_tokenizer(checkpoint, architecture.vocab_size)
    config = run.table("export", ExportConfig)
    length = config.max_model_len or min(architecture.max_seq_len, DEFAULT_MAX_MODEL_LEN)
    named = {} if "name" in run.values.get("export", {}) else {"name": name_of(checkpoint)}
    config = config.model_copy(update={"max_model_len": length, **named})
    windows = cut_windows(
        _texts(home, text), tokenizer, context=min(length, MAX_CONTEXT), limit=EXPORT_WINDOWS
    )
    with tempfile.TemporaryDirectory(dir=home.root, prefix="import-") as staging:
        folder = export_checkpoint(
            checkpoint,
            windows.tokens,
            config=config,
            bytes_per_token=windows.bytes_per_token,
            golden_prompts=windows.prompts,
            evaluation={},
            staging=Path(staging),
            progress=progress,
        )
        version = Registry(home).save(folder)
    store = open_store(home.database_url)
    store.record_model_version(version)
    store.close()
    return version


def name_of(checkpoint: Path) -> str:
    """A model's name from that of its folder: `SmolLM2 135M/` gives `smollm2-135m`."""
    name = re.sub(r"[^-_.a-z0-9]+", "-", checkpoint.resolve().name.lower()).strip("-_.")
    return name[:63].rstrip("-_.") or "imported"


def _texts(home: Home, place: str | None) -> Iterator[str]:
    """Texts to measure on, the nearest to the user's own that there are."""
    if place is not None:
        options = ReadOptions(licence="", text_field="text", document_characters=_TEXT_CHARACTERS)
        for found in find_inputs([SourceConfig(path=place)], options):
            for item in read_input(found, seed=0):
                if isinstance(item, Document):
                    yield item.text
        return
    try:
        dataset = newest_dataset(home)
    except NotFoundError:
        logger.info("precisions are compared on Python's documentation; name a text with --text")
        for item in python_docs.read():
            if isinstance(item, Document):
                yield item.text
        return
    logger.info("precisions are compared on the validation texts of dataset %s", dataset.id)
    for row in read_rows(home.data / dataset.id):
        if row.split == "validation" and row.text is not None:
            yield row.text
