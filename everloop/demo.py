"""Close the loop once, on real text, with the real commands: `everloop demo`.

model -> service -> traffic with feedback -> drift report -> one round of the loop beside live
traffic -> gate -> swap. The model is a real one that is imported, or one that is trained here from
scratch (`demo_scene.py`). Every step is the command that a person would type, run as a process of
its own; only the user is simulated (`simulated_user.py`).
"""

import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openai
from rich.console import Console

from everloop.demo_config import DemoConfig, as_overrides
from everloop.demo_report import DemoReport, GateReport, HeldOut, Sample, print_report
from everloop.demo_scene import Scene, documentation_scene, orders_scene
from everloop.errors import EverloopError, RefusedError
from everloop.memory_watch import MemoryWatch
from everloop.open_weights import LICENCE, NAME, NoWeightsError, fetch_open_weights
from everloop.progress import progress_bar
from everloop.registry import Registry
from everloop.settings import Home, RunFile
from everloop.simulated_user import Question, SimulatedUser, Traffic, percentile
from everloop.supervisor import terminate
from feedback.store.store import open_store
from serving import launch

SAMPLES = 3
HELD_OUT = 100  # questions that are asked again at the end, at most
READY_SECONDS = 60


def run_demo(
    home: Home, run: RunFile, minutes: float, *, open_weights: bool, as_json: bool
) -> None:
    """Run the demo and print what it found.

    Args:
        minutes: of training, in all, at most; the rest of the demo takes a few more.
        open_weights: import a real model in place of training a small one here.
        as_json: print one JSON document on stdout instead of the table.

    Raises:
        EverloopError: a step failed; its own error stands above.
        RefusedError: the demo ended, and nothing was learnt.
    """
    started = time.monotonic()
    console = Console(stderr=True)
    scene = choose_scene(run, minutes, console, open_weights=open_weights)
    with MemoryWatch() as memory:
        report = _Demo(home, scene, console).run()
    report.seconds = time.monotonic() - started
    report.peak_rss_bytes = memory.peak_bytes
    if as_json:
        sys.stdout.write(report.model_dump_json(indent=2) + "\n")
    else:
        print_report(report, home.root, Console())
    if report.failure is not None:
        raise RefusedError(report.failure)


def choose_scene(run: RunFile, minutes: float, console: Console, *, open_weights: bool) -> Scene:
    """The real model, if it is asked for and can be had; else the one that is trained here.

    Args:
        console: tells which, and why.
    """
    if not open_weights:
        return documentation_scene(run, minutes)
    try:
        weights = fetch_open_weights()
    except NoWeightsError as error:
        console.print(f"{error} A small model is trained from scratch instead.", highlight=False)
        return documentation_scene(run, minutes)
    console.print(f"model {NAME}, licence {LICENCE}, from {weights}", highlight=False)
    return orders_scene(run, weights, minutes)


class _Demo:
    """The steps of the demo, in the order in which they run."""

    def __init__(self, home: Home, scene: Scene, console: Console) -> None:
        self._home, self._scene, self._console = home, scene, console
        self._config = scene.run.table("demo", DemoConfig)

    def run(self) -> DemoReport:
        base = self._import(self._scene.weights) if self._scene.weights else self._train()
        reason = "the base model of a demo"
        self._everloop("models", "promote", base, "--reason", reason, configured=False)
        self._home.logs.mkdir(exist_ok=True)
        url = f"http://127.0.0.1:{launch.free_port()}"
        self._say(f"serve {base} on {url}")
        server = launch.start(
            self._home,
            "127.0.0.1",
            int(url.rpartition(":")[2]),
            overrides=as_overrides(self._scene.run),
            log_file=self._home.logs / "server.log",
        )
        try:
            launch.wait_ready(url, READY_SECONDS, server)
            return asyncio.run(self._live(base, url))
        finally:
            terminate([server], launch.GRACEFUL_SHUTDOWN_SECONDS + 10)

    def _import(self, weights: Path) -> str:
        self._say("import the model, and prove that its graph says the same")
        tag: str = self._everloop("import", str(weights))["model_version"]
        return tag

    def _train(self) -> str:
        self._say("read and clean the documentation that comes with Python")
        self._everloop("data", "build")
        self._everloop("tokenizer", "train")
        self._say("train: language first, then questions and answers")
        name = f"demo-{datetime.now(UTC):%Y%m%d%H%M%S}"
        self._everloop("train", name)
        self._say("export to ONNX, and prove that the graph says the same")
        tag: str = self._everloop("export", name)["model_version"]
        return tag

    async def _live(self, base: str, url: str) -> DemoReport:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        scene = self._scene
        model = base.partition(":")[0]  # the name alone: whatever version is the champion
        user = SimulatedUser(client, model, scene.score, scene.manner, self._config.seed)
        self._say("a user asks: first what the model knows, then something new")
        await self._ask(user, scene.known, "known questions", rate=False)
        await self._ask(user, scene.new, "new questions, rated", rate=True)
        speed = user.traffic.completion_tokens / user.traffic.seconds
        drift = self._everloop("drift", "report")
        self._say("one round of the loop, while the questions go on")
        result = await self._round(user)
        self._say("held-out questions again")
        samples = await self._samples(user, result["dataset_id"])
        await client.close()
        return self._report(base, user.traffic, speed, drift, result, samples)

    async def _ask(
        self, user: SimulatedUser, questions: Sequence[Question], title: str, *, rate: bool
    ) -> None:
        with progress_bar() as progress:
            task = progress.add_task(title, total=len(questions))
            await user.converse(
                questions,
                concurrency=self._config.concurrency,
                rate=rate,
                answered=lambda: progress.advance(task),
            )

    async def _round(self, user: SimulatedUser) -> dict[str, Any]:
        """Run a round as a process, with questions coming in all the while."""
        command = self._command("loop", "run", "--once")
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        is_over = asyncio.Event()
        endless = itertools.cycle([*self._scene.known, *self._scene.new])
        traffic = asyncio.create_task(
            user.converse(
                endless,
                concurrency=1,
                rate=False,
                until=is_over,
                pause_seconds=self._config.pause_seconds,
            )
        )
        output, _ = await process.communicate()
        is_over.set()
        await traffic
        return _result(command, process.returncode, output)

    async def _samples(self, user: SimulatedUser, dataset_id: str | None) -> list[Sample]:
        """Held-out questions: what people wanted, what the base model said, what is said now."""
        if dataset_id is None:
            return []
        store = open_store(self._home.database_url)
        samples = []
        for row in store.dataset_rows(dataset_id, split="holdout", limit=HELD_OUT):
            asked = next(source.id for source in row.sources if source.kind == "interaction")
            question, wanted = (message.content for message in (row.messages or ())[-2:])
            before = store.interaction(asked).answer or ""
            samples.append(Sample(question=question, wanted=wanted, before=before, after=""))
        store.close()
        questions = [Question("held out", item.question, item.wanted) for item in samples]
        for sample, answer in zip(samples, await user.answers(questions), strict=True):
            sample.after = answer
        return samples

    def _report(
        self,
        base: str,
        traffic: Traffic,
        speed: float,
        drift: dict[str, Any],
        result: dict[str, Any],
        samples: list[Sample],
    ) -> DemoReport:
        registry = Registry(self._home)
        candidate = registry.get(result["candidate"]) if result["candidate"] else None
        gate = result["gate"] or {"verdict": "none", "reasons": result["reasons"], "numbers": {}}
        numbers = gate["numbers"]
        has_interval = {"ci95_low", "ci95_high"} <= numbers.keys()
        return DemoReport(
            val_loss_before=registry.get(base).manifest.export.val_loss,
            val_loss_after=candidate.manifest.export.val_loss if candidate else None,
            quality_before=numbers.get("quality_before"),
            quality_after=numbers.get("quality_after"),
            quality_gain_ci95=(numbers["ci95_low"], numbers["ci95_high"]) if has_interval else None,
            gate=GateReport(verdict=gate["verdict"], reasons=gate["reasons"]),
            failed_requests=traffic.failed,
            answered_requests=traffic.answered,
            ttft_p50_s=percentile(traffic.ttft_seconds, 0.5),
            ttft_p95_s=percentile(traffic.ttft_seconds, 0.95),
            tokens_per_s=speed,
            champion=result["champion"],
            served_versions=traffic.model_versions,
            thumbs_up=traffic.thumbs_up,
            thumbs_down=traffic.thumbs_down,
            corrections=traffic.corrections,
            drift=drift["verdict"],
            reports=[drift["html"], drift["json_report"]],
            held_out=self._held_out(samples),
            samples=samples[:SAMPLES],
            note=self._scene.note,
        )

    def _held_out(self, samples: Sequence[Sample]) -> HeldOut:
        """How many answers the user would approve."""
        score, least = self._scene.score, self._scene.manner.approve_at
        return HeldOut(
            questions=len(samples),
            before=sum(score(item.before, item.wanted) >= least for item in samples),
            after=sum(score(item.after, item.wanted) >= least for item in samples),
            is_mute=bool(samples) and not any(item.after.strip() for item in samples),
        )

    def _command(self, *arguments: str, configured: bool = True) -> list[str]:
        """A command of this project on the demo's home; shown as a person would type it."""
        self._console.print(f"$ everloop {' '.join(arguments)}", style="dim", highlight=False)
        command = [sys.executable, "-m", "everloop", *arguments, "--json"]
        command += ["--home", str(self._home.root)]
        for override in as_overrides(self._scene.run) if configured else ():
            command += ["--set", override]
        return command

    def _everloop(self, *arguments: str, configured: bool = True) -> dict[str, Any]:
        command = self._command(*arguments, configured=configured)
        process = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        return _result(command, process.returncode, process.stdout)

    def _say(self, text: str) -> None:
        self._console.print(text, style="bold", highlight=False)


def _result(command: Sequence[str], code: int | None, output: bytes) -> dict[str, Any]:
    """The document that a command printed; "no" is an answer too."""
    if code not in (0, RefusedError.exit_code) or not output:
        raise EverloopError(
            f"everloop {command[3]} failed with exit code {code}; its own error stands above."
        )
    result: dict[str, Any] = json.loads(output)
    return result
