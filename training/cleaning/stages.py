"""Cleaning as stages on disk, each a datatrove pipeline whose finished tasks are never run again.

1. clean: read the inputs, repair, mask and filter; `cleaned/` and `dropped/`.
2. signatures, 3. candidates, 4. duplicates: which of the cleaned repeat an earlier one.

`Stages.results` then gives what is left, in the order of the inputs. The work folder belongs to one
configuration: a run that was killed goes on in it.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datatrove.executor.base import PipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

from everloop.records import Document
from training.cleaning.config import CleanConfig, ExecutorConfig
from training.cleaning.duplicates import Candidates, Duplicate, FindDuplicates, read_duplicates
from training.cleaning.executors import make_executor, run_stage
from training.cleaning.items import drop_writer, from_datatrove
from training.cleaning.pipeline import build_steps
from training.cleaning.signatures import Signatures, minhash_config
from training.cleaning.source_reader import SourceReader
from training.corpus import Conversation, Dropped
from training.sources import Input

STAGES = ("clean", "signatures", "candidates", "duplicates")


class Stages:
    """The stages of one configuration in their work folder.

    Args:
        config: thresholds and executor.
        reader: knows the inputs of every task.
        folder: the work folder.
        contamination: index of the evaluation sets, if there are any.
    """

    def __init__(
        self, config: CleanConfig, reader: SourceReader, folder: Path, contamination: Path | None
    ) -> None:
        self.folder = folder
        self.tasks = len(reader.shares)
        self._config = config
        self._pipelines = self._build(reader, contamination)

    def run(self) -> bool:
        """Run what is not done yet; on Slurm, submit it.

        Returns:
            Whether everything is done now.
        """
        executor: ExecutorConfig = self._config.executor
        before: PipelineExecutor | None = None
        for name, (pipeline, tasks) in self._pipelines.items():
            if name == "signatures" and executor.kind != "slurm" and not self._has_cleaned():
                return True
            before = make_executor(executor, pipeline, self.folder / "logs" / name, tasks, before)
            if executor.kind != "slurm":
                run_stage(before, executor)
        assert before is not None
        if executor.kind == "slurm" and not self.submitted.exists():
            run_stage(before, executor)  # submits those that it depends on first
            self.submitted.write_text(f"{before.job_id}\n", encoding="utf-8")
        return not before.get_incomplete_ranks(skip_completed=True)

    @property
    def submitted(self) -> Path:
        """Holds the number of the last Slurm job; without it, the stages are submitted again."""
        return self.folder / "submitted"

    def done_tasks(self) -> dict[str, int]:
        """How many tasks of each stage are completed."""
        marks = {name: self.folder / "logs" / name / "completions" for name in STAGES}
        return {name: len(list(mark.glob("*"))) for name, mark in marks.items()}

    def done_searches(self) -> int:
        """How many tasks of the search for duplicates are completed."""
        return sum(count for name, count in self.done_tasks().items() if name != "clean")

    def results(self) -> Iterator[Document | Conversation | Dropped]:
        """What stays, in the order of the inputs, and what every step dropped."""
        originals: dict[tuple[int, int], str] = {}
        wanted = self._originals()
        for rank in range(self.tasks):
            for path in sorted((self.folder / "dropped").glob(f"*/{rank:05d}.jsonl")):
                yield from _drops(path)
            duplicates = read_duplicates(self.folder / "duplicates", rank)
            for index, (identifier, text, metadata) in enumerate(self._cleaned(rank)):
                if index in duplicates:
                    yield _repeated(identifier, text, metadata, duplicates[index], originals)
                    continue
                if (rank, index) in wanted:
                    originals[rank, index] = metadata["source"]
                yield from_datatrove(identifier, text, metadata)

    def masked(self) -> dict[str, int]:
        """Finds of personal data that were masked, by kind."""
        found: Counter[str] = Counter()
        for path in (self.folder / "logs" / "clean" / "stats").glob("*.json"):
            for step in json.loads(path.read_text(encoding="utf-8")):
                for label, numbers in step["stats"].items():
                    if label.startswith("masked_"):
                        total = numbers["total"] if isinstance(numbers, dict) else numbers
                        found[label.removeprefix("masked_")] += int(total)
        return dict(sorted(found.items()))

    def _build(
        self, reader: SourceReader, contamination: Path | None
    ) -> dict[str, tuple[Sequence[PipelineStep], int]]:
        folder, table = self.folder, self._config.duplicates
        minhash = minhash_config(table)
        steps = build_steps(
            self._config, lambda step: drop_writer(folder / "dropped", step), contamination
        )
        cleaned = str(folder / "cleaned")
        writer = JsonlWriter(cleaned, compression=None)
        signatures, candidates = folder / "signatures", folder / "candidates"
        return {
            "clean": ([reader, *steps, writer], self.tasks),
            "signatures": (
                [_CleanedReader(cleaned), Signatures(signatures, table)], self.tasks,
            ),
            "candidates": (
                [Candidates(str(signatures), str(candidates), config=minhash)],
                min(self.tasks, minhash.num_buckets),
            ),
            "duplicates": (
                [FindDuplicates(signatures, candidates, folder / "duplicates", table)], 1,
            ),
        }  # fmt: skip

    def _has_cleaned(self) -> bool:
        return any(path.stat().st_size for path in (self.folder / "cleaned").glob("*.jsonl"))

    def _cleaned(self, rank: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
        path = self.folder / "cleaned" / f"{rank:05d}.jsonl"
        if not path.is_file():  # a task whose every document was dropped writes none
            return
        with path.open("rb") as file:
            for line in file:
                fields = json.loads(line)
                yield fields["id"], fields["text"], fields["metadata"]

    def _originals(self) -> set[tuple[int, int]]:
        """The documents that others repeat: where they stand is needed to say so."""
        return {
            duplicate.original
            for rank in range(self.tasks)
            for duplicate in read_duplicates(self.folder / "duplicates", rank).values()
        }


class _CleanedReader(JsonlReader):
    """Read the cleaned documents of the task of the same number.

    datatrove deals files out by their place in the list, which shifts where a task wrote none.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(folder, compression=None, add_file_path=False)

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:  # noqa: ARG002
        """Yield them in order."""
        name = f"{rank:05d}.jsonl"
        if self.data_folder.isfile(name):
            yield from self.read_files_shard([name])


def _drops(path: Path) -> Iterator[Dropped]:
    with path.open("rb") as file:
        for line in file:
            yield Dropped.model_validate_json(line)


def _repeated(
    identifier: str,
    text: str,
    metadata: dict[str, Any],
    duplicate: Duplicate,
    originals: dict[tuple[int, int], str],
) -> Dropped:
    share = "" if duplicate.is_exact else f" (similarity {duplicate.similarity:.2f})"
    return Dropped(
        id=identifier,
        source=metadata["source"],
        step="duplicates",
        reason="duplicate" if duplicate.is_exact else "near_duplicate",
        text=text,
        detail=f"{originals[duplicate.original]}{share}",
        collection=metadata.get("collection", ""),
    )


def deal(inputs: Sequence[Input], task_bytes: float) -> list[list[Input]]:
    """Divide the inputs into tasks: runs of neighbours, each full at `task_bytes`.

    Large files of JSON lines are divided as well; others are one task each.

    Neighbours, so that what is kept of two duplicates does not depend on the size of a task.
    """
    shares: list[list[Input]] = [[]]
    size = 0
    for found in (part for whole in inputs for part in whole.divided(task_bytes)):
        if shares[-1] and size + found.size_bytes > task_bytes:
            shares.append([])
            size = 0
        shares[-1].append(found)
        size += found.size_bytes
    return shares
