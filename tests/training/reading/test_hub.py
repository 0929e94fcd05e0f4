import json
from pathlib import Path

import pytest

from everloop.errors import DataError
from everloop.records import Document
from training.corpus import Conversation
from training.reading.hub import read_hub
from training.reading.options import ReadOptions
from training.sources import SourceConfig, find_inputs, read_input

OPTIONS = ReadOptions("MIT", "text", 100, collection="hub")


@pytest.mark.slow
def test_read_hub_streams_a_dataset_in_the_hubs_layout(tmp_path: Path) -> None:
    rows = [{"id": 1, "text": "one"}, {"id": 2, "text": "two"}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = list(read_hub(None, "train", str(tmp_path), OPTIONS))
    assert [(item.id, item.text) for item in items if isinstance(item, Document)] == [
        ("hub/1", "one"), ("hub/2", "two"),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_source_names_a_dataset_and_its_keys(tmp_path: Path) -> None:
    for split, answer in (("train", "4"), ("test", "5")):
        row = {"question": "2 + 2?", "answer": answer}
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    source = SourceConfig(
        dataset=str(tmp_path), dataset_split="test", prompt_field="question",
        completion_field="answer", name="sums",
    )  # fmt: skip
    (found,) = find_inputs([source], OPTIONS)
    (chat,) = read_input(found, seed=0)
    assert isinstance(chat, Conversation)
    assert (chat.messages[1].content, chat.collection) == ("5", "sums")


@pytest.mark.slow
def test_read_hub_is_one_sentence_when_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"the dataset nobody/nothing \(train\) cannot be read"):
        list(read_hub(None, "train", "nobody/nothing", OPTIONS))
