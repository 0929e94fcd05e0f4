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
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette

from everloop.errors import EverloopError
from everloop.log import configure
from everloop.settings import Settings
from everloop.supervisor import when_supervisor_ends
from serving.launch import GRACEFUL_SHUTDOWN_SECONDS, KEEP_ALIVE_SECONDS
from serving.listening import listen
from serving.service import current_state, make_app

if TYPE_CHECKING:
    from serving.openai_api.state import ApiState

logger = logging.getLogger("serving.server")  # this module is also __main__

# Of a process whose engine has died: no error of the command, so that it is always started again.
ENGINE_DIED = 70

# For bytes that are on their way when the answers have ended.
_CLOSE_SECONDS = 5
_ALIVE_SECONDS = 1.0


class _Server(uvicorn.Server):
    """Uvicorn without handlers of its own for signals: a stop drains before it closes sockets."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `_run`."""
        yield


def main(host: str, port: int) -> int:
    """Serve until SIGTERM or SIGINT.

    Returns:
        An exit code: 0 after a stop, ENGINE_DIED, else that of the error, which the log says in
        one sentence.
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
            return runner.run(_run(app, config, host, port))
    except EverloopError as error:
        logger.error("the service cannot start: %s", error)
        return error.exit_code


async def engine_death(api: "ApiState", poll_seconds: float = _ALIVE_SECONDS) -> None:
    """Wait until the engine has died, which only a new process can mend."""
    while api.is_alive:
        await asyncio.sleep(poll_seconds)


async def _run(app: Starlette, config: uvicorn.Config, host: str, port: int) -> int:
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
        api = current_state()
        death = asyncio.create_task(engine_death(api))
        await _until(stop, serving, death)
        is_dead = death.done()
        if is_dead:
            logger.error("the engine has died; ending, to be started again")
            hurry.set()
        # The sockets stay open meanwhile: who comes now is told, instead of left to wait.
        api.is_draining = True
        await _until(hurry, asyncio.create_task(api.wait_until_idle(GRACEFUL_SHUTDOWN_SECONDS)))
        await api.end_answers()
        server.should_exit = True
        await serving
    return ENGINE_DIED if is_dead else 0


async def _until(event: asyncio.Event, *works: "asyncio.Task[Any]") -> None:
    """Wait for an event, or for the end of a task, whose failure is raised."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait({waiting, *works}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    for work in works:
        if work.done():
            work.result()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
