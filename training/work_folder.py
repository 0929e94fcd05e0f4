"""The work folder of one build: what its stages leave there until the dataset is written.

It is named after everything that decides the result, so that the same command goes on in it after
a kill, and another configuration never does.
"""

import hashlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from everloop.errors import ConfigError, EverloopError
from everloop.records import Document
from everloop.settings import Home
from training.cleaning.config import CleanConfig, DecontaminationConfig
from training.cleaning.decontamination import write_index
from training.corpus import Conversation
from training.reading.options import ReadOptions
from training.sources import Input, SourceConfig, find_inputs, read_input

logger = logging.getLogger(__name__)
_REPORT_SECONDS = 0.2
_KEPT_SECONDS = 30 * 24 * 3600


@contextmanager
def work_folder(home: Home, config: CleanConfig, inputs: Sequence[Input]) -> Iterator[Path]:
    """The folder of this configuration and these inputs, locked while it is used.

    Work that nobody has touched for a month is thrown away: its files or settings have changed.

    Raises:
        ConfigError: another process builds the same dataset.
        EverloopError: it cannot be written, such as on a full disk.
    """
    _forget_old_work(home.data)
    work = (home.data / f".work-{_fingerprint(config, inputs)}").resolve()
    work.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(f"another process builds this dataset in {work}. Wait for it.") from error
    try:
        if work.exists():
            logger.info("an unfinished build goes on folder=%s", work)
        work.mkdir(exist_ok=True)
        yield work
    except OSError as error:
        raise EverloopError(
            f"the cleaning cannot write to {work} ({error.strerror or error}). Free space and run "
            "the command again: it goes on behind the last finished task."
        ) from error
    finally:
        lock.release()
        work.with_suffix(".lock").unlink(missing_ok=True)


def evaluation_index(
    config: DecontaminationConfig, options: ReadOptions, work: Path
) -> Path | None:
    """Index the evaluation sets that the corpus must not contain; None if there are none.

    Raises:
        DataError: a set is missing or cannot be read.
    """
    if not config.sets:
        return None
    # Questions and answers of a set stand under keys of its own.
    options = replace(options, takes_any_text=True)
    texts = {name: _texts(path, options) for name, path in config.sets.items()}
    folder = work / "evaluation"
    write_index(texts, config.ngram_words, folder)
    return folder


@contextmanager
def reporting(
    progress: Callable[[str, int], None] | None, title: str, count: Callable[[], int]
) -> Iterator[None]:
    """Call `progress` with a number that other processes raise, under what it counts."""
    if progress is None:
        yield
        return
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_REPORT_SECONDS):
            progress(title, count())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        progress(title, count())


def _forget_old_work(root: Path) -> None:
    for work in root.glob(".work-????????????"):
        marks = (work, *(work / "logs").glob("*/completions"))
        if time.time() - max(mark.stat().st_mtime for mark in marks) > _KEPT_SECONDS:
            logger.info("old work of an unfinished build is removed folder=%s", work)
            shutil.rmtree(work, ignore_errors=True)


def _texts(path: str, options: ReadOptions) -> Iterator[str]:
    for found in find_inputs([SourceConfig(path=path)], options, "data.decontamination.sets"):
        for item in read_input(found, seed=0):
            if isinstance(item, Document):
                yield item.text
            elif isinstance(item, Conversation):
                for turn in (*item.messages, *(item.chosen or ()), *(item.rejected or ())):
                    yield turn.content


def _fingerprint(config: CleanConfig, inputs: Sequence[Input]) -> str:
    """Of the settings, but not of where the work is done, and of the files with their times."""
    settings = config.model_dump(mode="json")
    executor = settings.pop("executor")
    content = [
        settings,
        executor["task_megabytes"],
        [[found.location, found.size_bytes, _modified(found.location)] for found in inputs],
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()[:12]


def _modified(location: str) -> int:
    path = Path(location)
    return path.stat().st_mtime_ns if path.is_file() else 0
