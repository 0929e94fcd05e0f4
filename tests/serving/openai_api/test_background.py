"""Tasks that never end: each death is seen, and the task comes back."""

import asyncio
import logging

import pytest

from serving.openai_api.background import BackgroundTasks
from tests.serving.fakes import ObserverLog, wait_until


def test_task_that_dies_is_logged_counted_and_started_again(caplog):
    observer, starts = ObserverLog(), []

    async def run() -> None:
        tasks, alive = BackgroundTasks(observer, 0.001, 0.01), asyncio.Event()

        async def work() -> None:
            starts.append(set(tasks.failing))
            if len(starts) < 4:
                raise KeyError("one bad byte")
            alive.set()
            await asyncio.Event().wait()

        tasks.start("champion", work)
        await alive.wait()
        while tasks.failing:
            await asyncio.sleep(0)
        await tasks.stop()

    asyncio.run(run())
    assert starts == [set(), {"champion"}, {"champion"}, {"champion"}]
    assert observer.deaths == ["champion"] * 3
    lines = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [line.message.rpartition("in ")[2] for line in lines] == [
        "0.001 seconds", "0.002 seconds", "0.004 seconds",
    ]  # fmt: skip
    assert all("background task champion died" in line.message for line in lines)
    assert all(line.exc_info for line in lines)


def test_task_that_ends_without_an_error_has_died_too():
    observer = ObserverLog()

    async def run() -> None:
        tasks = BackgroundTasks(observer, 0.001, 0.01)

        async def work() -> None:
            return

        tasks.start("champion", work)
        while len(observer.deaths) < 2:
            await asyncio.sleep(0)
        await tasks.stop()

    asyncio.run(run())


@pytest.mark.parametrize("name", ["champion", "event_loop_watch"])
def test_service_is_not_ready_while_one_of_its_tasks_is_away(app, http, name):
    assert http.get("/readyz").status_code == 200
    app.state.api.background.failing.add(name)
    assert http.get("/readyz").status_code == 503
    assert http.get("/livez").status_code == 200
    app.state.api.background.failing.clear()
    assert wait_until(lambda: http.get("/readyz").status_code == 200)
