"""Datasets of the Hugging Face hub by name, streamed row by row."""

from collections.abc import Iterator

from everloop.errors import DataError
from training.corpus import Item
from training.reading.options import ReadOptions
from training.reading.rows import read_rows


def read_hub(subset: str | None, split: str, name: str, options: ReadOptions) -> Iterator[Item]:
    """Read a dataset of the hub, or a local folder in the hub's layout.

    Raises:
        DataError: the dataset does not exist or the machine is offline, or no row can be used.
    """
    # Imported here: it takes 1.3 s, and only this source needs it.
    import datasets

    try:
        rows = datasets.load_dataset(name, subset, split=split, streaming=True)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).split("\n")[0] if str(error) else type(error).__name__
        raise DataError(
            f"the dataset {name} ({split}) cannot be read from the Hugging Face hub: {reason} "
            "Check its name, or fetch it on a machine that is online and name its folder as path."
        ) from error
    yield from read_rows(name, enumerate(rows, start=1), "row", options)
