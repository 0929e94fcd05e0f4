"""The folder of one training run: one writer, one set of settings, resumable until it is finished.

run.lock              held while a process trains here
run.json              the settings; a run is not continued under others
numerics.json         the number formats that it computes in
validation.json       how many rows a validation reads, where the budget is time
trainer/              saved states of an unfinished run
history.jsonl         losses
status.json           how far it is
tensorboard/          event files, if asked for
checkpoint/           the result
report.html, .json    the report about it
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from everloop.errors import ConfigError
from training.checkpoint import Checkpoint, read_checkpoint
from training.distributed import barrier, is_main_process


@dataclass(frozen=True, slots=True)
class RunFolder:
    """An open run folder; the caller holds its lock."""

    path: Path

    @property
    def history(self) -> Path:
        """Losses, one JSON object per line."""
        return self.path / "history.jsonl"

    @property
    def numerics(self) -> Path:
        """The number formats that the run computes in, as one JSON object."""
        return self.path / "numerics.json"

    @property
    def trainer(self) -> Path:
        """Saved states of the unfinished run."""
        return self.path / "trainer"

    @property
    def last_state(self) -> Path | None:
        """The newest complete saved state, or None in a new run."""
        # trainer_state.json is written last, so a folder in which it is whole is complete.
        states = [
            file.parent
            for file in self.trainer.glob("checkpoint-*/trainer_state.json")
            if _is_whole(file)
        ]
        return max(states, key=lambda state: int(state.name.split("-")[1]), default=None)

    @property
    def finished(self) -> Checkpoint | None:
        """The result, if the run has ended."""
        folder = self.path / "checkpoint"
        return read_checkpoint(folder) if folder.is_dir() else None

    def finish(self, write: Callable[[Path], None]) -> Checkpoint:
        """Write the result under a temporary name, put it in place, drop the saved states.

        Of several processes, one writes and the others wait for it.
        """
        if is_main_process():
            partial = self.path / "checkpoint.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            write(partial)
            partial.rename(self.path / "checkpoint")
            shutil.rmtree(self.trainer, ignore_errors=True)
        barrier()
        return read_checkpoint(self.path / "checkpoint")


@contextmanager
def open_run(path: Path, settings: Mapping[str, str]) -> Iterator[RunFolder]:
    """Take the folder of a new run, or of the same run that was interrupted.

    Of several processes that train together, one takes it for all.

    Raises:
        ConfigError: another process trains here, or the folder belongs to a run of other settings.
    """
    path.mkdir(parents=True, exist_ok=True)
    if not is_main_process():
        yield RunFolder(path)
        return
    lock = FileLock(path / "run.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"run folder {path}: another process trains in it. Wait for it or name another run."
        ) from error
    try:
        _check_settings(path / "run.json", settings)
        yield RunFolder(path)
    finally:
        lock.release()


def _check_settings(file: Path, settings: Mapping[str, str]) -> None:
    if not file.is_file():
        temporary = file.with_suffix(".partial")
        temporary.write_text(json.dumps(dict(settings), indent=1), encoding="utf-8")
        temporary.rename(file)
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    for key in sorted({*before, *settings}):
        old, new = before.get(key), settings.get(key)
        if old != new:
            raise ConfigError(
                f"run folder {file.parent} was started with {key} = {old}, now it is {new}. "
                "Name another run, or delete the folder."
            )


def _is_whole(file: Path) -> bool:
    """Whether a JSON file was written to its end."""
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True
