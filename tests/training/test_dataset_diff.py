from everloop.records import DatasetRow, Source, content_hash
from everloop.settings import Home
from training.dataset_diff import diff_datasets
from training.dataset_folder import write_dataset


def text(number: int, split: str = "train") -> DatasetRow:
    content = f"text {number}"
    source = Source(kind="document", id=f"d{number}")
    return DatasetRow.model_validate(
        {"id": content_hash(content, None), "split": split, "sources": (source,), "text": content}
    )


def write(home: Home, *rows: DatasetRow) -> str:
    return write_dataset(rows, home, sources=[], licences=[]).id


def test_diff_counts_by_content_and_shows_samples(home: Home) -> None:
    before = write(home, text(1), text(2), text(3), text(4, "validation"))
    after = write(home, text(2), text(3, "validation"), text(4, "validation"), text(5), text(6))
    found = diff_datasets(home.data / before, home.data / after, samples=1)
    assert (found.kept, found.moved) == (2, {"train -> validation": 1})
    assert (found.added, found.removed) == ({"text": 2}, {"text": 1})
    assert found.added_rows == (text(5),)
    assert found.removed_rows == (text(1),)


def test_a_version_does_not_differ_from_itself(home: Home) -> None:
    folder = home.data / write(home, text(1))
    found = diff_datasets(folder, folder)
    assert (found.kept, found.added, found.removed, found.moved) == (1, {}, {}, {})
