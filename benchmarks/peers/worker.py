"""A peer in a process of its own: JSON lines to it, JSON lines back."""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.peers.environment import ROOT, own_variables

_STOP_SECONDS = 30
_SAID_BYTES = 2000


class WorkerProcess:
    """Runs a module of the benchmarks with the Python of an environment of peers.

    Args:
        python: of the environment.
        module: what to run.
        arguments: of its command line.
        variables: environment variables beside our own.
    """

    def __init__(
        self,
        python: Path,
        module: str,
        *arguments: str | Path,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._command = [str(python), "-m", module, *map(str, arguments)]
        self._variables = {**own_variables(), **(variables or {})}

    def __enter__(self) -> Self:
        """Start it, and wait until it has loaded."""
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=self._variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        try:
            self._answer()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End its input, and with it the process."""
        with self._log, self._process:  # closes the pipes
            if self._process.stdin:
                self._process.stdin.close()
            self._process.wait(_STOP_SECONDS)

    def ask(self, **request: object) -> Any:
        """Give its answer to a request.

        Raises:
            RuntimeError: it ended; what it said last says why.
        """
        assert self._process.stdin is not None, "the process was started with a pipe"
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        return self._answer()

    def read(self, size: int) -> bytes:
        """Bytes that follow an answer."""
        assert self._process.stdout is not None, "the process was started with a pipe"
        return self._process.stdout.read(size)

    def _answer(self) -> Any:
        assert self._process.stdout is not None, "the process was started with a pipe"
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait(_STOP_SECONDS)
            self._log.seek(-min(_SAID_BYTES, self._log.seek(0, os.SEEK_END)), os.SEEK_END)
            said = self._log.read().decode(errors="replace")
            raise RuntimeError(f"{' '.join(self._command)} ended with exit code {code}: {said}")
        return json.loads(line)
