"""Graphs of one model compared with its fp32 graph over the same windows of text.

The fp32 graph reads a window once: its logits are kept in a file, and every other graph is compared
with them. Graphs are opened one after the other, so that each takes its memory alone.

Shapes: N windows, T tokens that one predicts, V vocabulary.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from everloop.manifest import Divergence
from training.export.chat_answers import ChatPrompts
from training.export.divergence import Floats, Logits, compare
from training.export.losses import negative_log_likelihood
from training.export.sequential import interval
from training.export.session import ReferenceRunner, open_session

Tick = Callable[[int], object]

_MAX_KEPT_BYTES = 4 << 30  # of fp32's logits, on the disk
_MAX_LOGITS = 16 << 20  # of one step: 64 MiB


def affordable_windows(count: int, context: int, vocab_size: int) -> int:
    """How many of so many windows have logits that may be kept; at least one."""
    return min(count, max(1, _MAX_KEPT_BYTES // (4 * context * vocab_size)))


class ExactGraph:
    """The fp32 graph, and what it says about the windows that were read so far.

    Attributes:
        windows: token ids [N, T + 1], all that may be read.
        losses: of each window that was read, nats per token.
        chat: prompts that it answers; None for none.
        answers: to them.
    """

    def __init__(
        self,
        graph: Path,
        windows: NDArray[np.integer],
        folder: Path | None,
        chat: ChatPrompts | None,
    ) -> None:
        """Read nothing yet; `folder` will take the logits, None if nothing is compared."""
        self.windows = windows
        self.chat = chat
        self.losses: Floats = np.zeros(0)
        self.answers: list[list[int]] = []
        self._graph = graph
        self._folder = folder

    def read(self, count: int, tick: Tick) -> None:
        """Read the windows up to a count, if they are not; with the first, answer the prompts.

        Args:
            count: number of windows.
            tick: called with the number of windows that became known.
        """
        if len(self.losses) >= count:
            return
        session = open_session(self._graph)
        for number in range(len(self.losses), count):
            window = self.windows[number]
            context = len(window) - 1
            kept = self._new_file(number, (context, _vocab_size(session)))
            loss = 0.0
            for at, logits in _read(session, window):
                if kept is not None:
                    kept[at] = logits
                loss += negative_log_likelihood(logits, window[1:][at])
            self.losses = np.append(self.losses, loss / context)
            tick(1)
        if self.chat is not None and not self.answers:
            self.answers = _answer(session, self.chat)

    def logits(self, number: int) -> Logits:
        """Those of a window that was read, [T, V], from their file."""
        assert self._folder is not None, "only what is kept is compared"
        found: Logits = np.load(_file(self._folder, number), mmap_mode="r")
        return found

    def _new_file(self, number: int, shape: tuple[int, int]) -> Logits | None:
        if self._folder is None:
            return None
        return np.lib.format.open_memmap(_file(self._folder, number), "w+", np.float32, shape)


class ComparedGraph:
    """Another graph, and how far it lies from fp32 in the windows that were read so far.

    Attributes:
        graph: its file.
        losses: of each window that was read, nats per token.
        divergences: KL to fp32 of each token, [N, T].
        agreements: shares of tokens whose likeliest continuation is fp32's, of each window.
    """

    def __init__(self, graph: Path, exact: ExactGraph) -> None:
        """Read nothing yet."""
        self.graph = graph
        self.losses: Floats = np.zeros(0)
        self.divergences: Floats = np.zeros((0, exact.windows.shape[1] - 1))
        self.agreements: Floats = np.zeros(0)
        self._exact = exact
        self._equal_answers: float | None = None

    def read(self, count: int, tick: Tick) -> None:
        """Read the windows up to a count, if they are not; with the first, answer the prompts.

        Args:
            count: number of windows; fp32 has read them.
            tick: called with the number of windows that became known.
        """
        if len(self.losses) >= count:
            return
        session = open_session(self.graph)
        for number in range(len(self.losses), count):
            self._compare(session, self._exact.windows[number], self._exact.logits(number))
            tick(1)
        if self._exact.chat is not None and self._equal_answers is None:
            pairs = zip(_answer(session, self._exact.chat), self._exact.answers, strict=True)
            self._equal_answers = float(np.mean([ours == wanted for ours, wanted in pairs]))

    def _compare(
        self, session: ort.InferenceSession, window: NDArray[np.integer], exact: Logits
    ) -> None:
        divergences = np.zeros((1, len(exact)))
        loss, agreeing = 0.0, 0
        for at, logits in _read(session, window):
            found = compare(exact[at], logits)
            divergences[0, at] = found.divergences
            agreeing += int(found.agreements.sum())
            loss += negative_log_likelihood(logits, window[1:][at])
        self.losses = np.append(self.losses, loss / len(exact))
        self.divergences = np.concatenate([self.divergences, divergences])
        self.agreements = np.append(self.agreements, agreeing / len(exact))

    def report(self) -> Divergence:
        """What was measured, with 95 % intervals over the windows."""
        by_window = self.divergences.mean(axis=1)
        return Divergence(
            tokens=self.divergences.size,
            mean_kl=float(by_window.mean()),
            mean_kl_interval=interval(by_window),
            p99_kl=float(np.percentile(self.divergences, 99)),
            top_1_agreement=float(self.agreements.mean()),
            top_1_interval=interval(self.agreements),
            equal_answers=self._equal_answers,
        )


def _file(folder: Path, number: int) -> Path:
    return folder / f"logits-{number}.npy"


def _read(
    session: ort.InferenceSession, window: NDArray[np.integer]
) -> Iterator[tuple[slice, Logits]]:
    """Places of a window [T + 1] and their logits, as many at once as may be held."""
    context = len(window) - 1
    size = max(1, min(context, _MAX_LOGITS // _vocab_size(session)))
    runner = ReferenceRunner(session, slots=1, capacity=context)
    for start in range(0, context, size):
        at = slice(start, min(start + size, context))
        yield at, runner.step({0: window[at].tolist()})[0]


def _vocab_size(session: ort.InferenceSession) -> int:
    size: int = session.get_outputs()[0].shape[1]
    return size


def _answer(session: ort.InferenceSession, chat: ChatPrompts) -> list[list[int]]:
    runner = ReferenceRunner(session, slots=len(chat.prompts), capacity=chat.capacity)
    return chat.answers(runner)
