"""The first step of the cleaning pipeline: this task's share of the inputs, as documents."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from datatrove.data import Document as TroveDocument
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from everloop import pii
from everloop.records import Document
from everloop.text_files import read_text_lines
from training.cleaning.items import to_datatrove
from training.corpus import Conversation, Dropped
from training.sources import Input, read_input

_REPORT_EVERY = 200


class SourceReader(PipelineStep):
    """Read the inputs of one task; write what could not be read, or is not wanted.

    Args:
        shares: the inputs of every task.
        seed: chooses wordings of the embedded corpus.
        exclude_topics: topics whose conversations are not wanted.
        masked_kinds: personal data that is masked in what is dropped here, before any other step.
        folder: receives `dropped/read/<rank>.jsonl`, and in `progress/` and `topics/` one file per
            task, with the number of items read so far, and the topics that were seen.
    """

    type = "📖 - READER"
    name = "sources"

    def __init__(
        self,
        shares: Sequence[Sequence[Input]],
        seed: int,
        exclude_topics: Sequence[str],
        folder: Path,
        masked_kinds: Sequence[str] = pii.KINDS,
    ) -> None:
        super().__init__()
        self.shares = [list(share) for share in shares]
        self.seed = seed
        self.exclude_topics = frozenset(exclude_topics)
        self.folder = folder
        self.masked_kinds = tuple(masked_kinds)

    def run(
        self,
        data: DocumentsPipeline = None,  # noqa: ARG002 - datatrove's interface
        rank: int = 0,
        world_size: int = 1,  # noqa: ARG002 - datatrove's interface
    ) -> Iterator[TroveDocument]:
        """Yield the documents and conversations of a task, in the order of its inputs."""
        for name in ("dropped/read", "progress", "topics"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        drops = self.folder / "dropped" / "read" / f"{rank:05d}.jsonl"
        progress = self.folder / "progress" / f"{rank:05d}"
        topics: Counter[str] = Counter()
        done = 0
        with drops.open("w", encoding="utf-8") as file:
            for found in self.shares[rank]:
                for item in read_input(found, self.seed):
                    wanted = self._wanted(item, topics)
                    if isinstance(wanted, Dropped):
                        file.write(self._line(wanted, found.options.collection))
                    if isinstance(item, Dropped):
                        continue
                    done += 1
                    if done % _REPORT_EVERY == 0:
                        progress.write_text(str(done), encoding="utf-8")
                    if not isinstance(wanted, Dropped):
                        self.stat_update("read")
                        yield to_datatrove(wanted)
        progress.write_text(str(done), encoding="utf-8")
        text = "".join(f"{topic}\n" for topic in sorted(topics))
        (self.folder / "topics" / f"{rank:05d}").write_text(text, encoding="utf-8")

    def _line(self, dropped: Dropped, collection: str) -> str:
        text, _ = pii.mask(dropped.text, self.masked_kinds)
        update = {"text": text, "collection": collection}
        return dropped.model_copy(update=update).model_dump_json() + "\n"

    def _wanted(
        self, item: Document | Conversation | Dropped, topics: Counter[str]
    ) -> Document | Conversation | Dropped:
        if isinstance(item, Conversation) and item.topic is not None:
            topics[item.topic] += 1
            if item.topic in self.exclude_topics:
                return Dropped(
                    id=item.id,
                    source=item.source,
                    step="exclude_topics",
                    reason=item.topic,
                    text="\n\n".join(message.content for message in item.messages),
                )
        return item


def items_read(folder: Path) -> int:
    """How many documents and conversations all tasks have read so far."""
    counts = [path.read_text(encoding="utf-8") for path in (folder / "progress").glob("*")]
    return sum(int(count) for count in counts if count)


def topics_seen(folder: Path) -> set[str]:
    """The topics of all conversations that were read."""
    paths = (folder / "topics").glob("*")
    return {line for path in paths for line in read_text_lines(path) if line}
