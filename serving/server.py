"""The server's process: the BentoML app under uvicorn, and how it stops.

    python -m serving.server HOST PORT

`serving/launch.py` starts it, with its environment; `everloop serve` starts it again when it dies.
BentoML's own supervisor is not used: it takes commands from every user of the machine, through a
socket without authentication.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette

from everloop.errors import EverloopError
from everloop.log import configure
from everloop.settings import Settings
from everloop.supervisor import when_supervisor_ends
from serving.launch import GRACEFUL_SHUTDOWN_SECONDS, KEEP_ALIVE_SECONDS
from serving.listening import listen
from serving.service import current_state, make_app

logger = logging.getLogger("serving.server")  # this module is also __main__

# For bytes that are on their way when the answers have ended.
_CLOSE_SECONDS = 5


class _Server(uvicorn.Server):
    """Uvicorn without handlers of its own for signals: a stop drains before it closes sockets."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `_run`."""
        yield


def main(host: str, port: int) -> int:
    """Serve until SIGTERM or SIGINT.

    Returns:
        An exit code: 0 after a stop, else that of the error, which the log says in one sentence.
    """
    configure(Settings().log_level)
    when_supervisor_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))
    app = make_app()
    config = uvicorn.Config(
        app,
        lifespan="off",  # entered below, where an error of it is still the error it was
        ws="none",
        log_config=None,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_CLOSE_SECONDS,
    )
    try:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(_run(app, config, host, port))
    except EverloopError as error:
        logger.error("the service cannot start: %s", error)
        return error.exit_code
    return 0


async def _run(app: Starlette, config: uvicorn.Config, host: str, port: int) -> None:
    sockets = listen(host, port)
    stop, hurry = asyncio.Event(), asyncio.Event()

    def ask_to_stop() -> None:
        (hurry if stop.is_set() else stop).set()

    async with app.router.lifespan_context(app):
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ask_to_stop)
        server = _Server(config)
        serving = asyncio.create_task(server.serve(sockets))
        logger.info("serving http://%s:%d", host, port)
        await _until(stop, serving)
        # The sockets stay open meanwhile: who comes now is told, instead of left to wait.
        api = current_state()
        api.is_draining = True
        await _until(hurry, asyncio.create_task(api.wait_until_idle(GRACEFUL_SHUTDOWN_SECONDS)))
        await api.end_answers()
        server.should_exit = True
        await serving


async def _until(event: asyncio.Event, work: "asyncio.Task[Any]") -> None:
    """Wait for an event, or for the end of a task, whose failure is raised."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait({waiting, work}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if work.done():
        work.result()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
