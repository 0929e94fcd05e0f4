"""Close the loop once, on real text, with the real parts: `everloop demo`.

corpus -> training -> export -> service -> traffic with feedback -> drift report -> one round of the
loop beside live traffic -> gate -> swap. The user is simulated (`simulated_user.py`), nothing else.
"""

import asyncio
import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import openai
from pydantic import Field
from rich.console import Console
from rich.progress import Progress

from everloop.demo_report import DemoReport, GateReport, Sample, print_report
from everloop.errors import EverloopError, RefusedError
from everloop.lifecycle import build_data, export_version, prepare_tokens, train_run
from everloop.memory_watch import MemoryWatch
from everloop.progress import progress_bar
from everloop.registry import ModelVersion, Registry
from everloop.settings import Config, Home, RunFile
from everloop.simulated_user import Manner, Question, SimulatedUser, Traffic, percentile
from everloop.supervisor import terminate
from feedback.rollout import promote
from feedback.store.store import open_store
from monitoring.drift_report import DriftConfig
from monitoring.worker import compare_once
from serving import launch
from training import python_docs
from training.evaluate import answer_score

# Shares of the training minutes.
PRETRAIN_SHARE, SFT_SHARE, LOOP_SHARE = 0.55, 0.25, 0.2
SAMPLES = 3


class DemoConfig(Config):
    """Table [demo]: what the simulated user asks about, and how."""

    topics: tuple[str, ...] = Field(
        (
            "asyncio", "email", "http", "urllib", "mailbox", "imaplib", "wsgiref", "xmlrpc",
            "smtplib", "ipaddress", "socketserver", "ftplib", "ssl", "socket",
        ),
        strict=False,
        description="what the model has not been tuned on and the user asks about: the network",
    )  # fmt: skip
    known_questions: int = Field(
        320, ge=300, description="asked about other topics before: the reference of the drift"
    )
    questions: int = Field(480, ge=300, description="asked about the topics, rated and corrected")
    concurrency: int = Field(8, ge=1, description="questions that are open at the same time")
    approve_at: float = Field(0.6, ge=0, le=1, description="score from which an answer is good")
    correction_rate: float = Field(0.9, ge=0, le=1, description="share of bad answers corrected")
    seed: int = Field(7, ge=0, description="of the user")


def run_demo(home: Home, run: RunFile, minutes: float, as_json: bool) -> None:
    """Run the demo and print what it found.

    Args:
        minutes: of training, in all; the rest of the demo takes about two more.
        as_json: print one JSON document on stdout instead of the table.

    Raises:
        EverloopError: a step failed; the message names it.
    """
    console = Console(stderr=True)
    with MemoryWatch() as memory, progress_bar() as progress:
        started = time.monotonic()
        demo = _Demo(home, _with_budget(run, minutes), progress, console)
        report = demo.run()
        report.seconds = time.monotonic() - started
    report.peak_rss_bytes = memory.peak_bytes
    if as_json:
        sys.stdout.write(report.model_dump_json(indent=2) + "\n")
    else:
        print_report(report, home.root, Console())


def _with_budget(run: RunFile, minutes: float) -> RunFile:
    """Lay the demo's settings under those of the run: what the user set stays."""
    topics = list(run.table("demo", DemoConfig).topics)
    known = {pair.topic for pair in python_docs.pairs()}
    defaults: dict[str, dict[str, Any]] = {
        "data": {"exclude_topics": [topic for topic in topics if topic in known]},
        "pretrain": {"minutes": minutes * PRETRAIN_SHARE},
        "sft": {"minutes": minutes * SFT_SHARE},
        "loop": {"minutes": minutes * LOOP_SHARE},
        "trigger": {"cooldown_minutes": 0.0},
        "feedback": {"max_rows_per_user": 5000},
    }
    merged = {name: {**defaults.get(name, {}), **run.values.get(name, {})}
              for name in {*defaults, *run.values}}  # fmt: skip
    return RunFile(run.name, merged)


class _Demo:
    """The stages of the demo, in the order in which they run."""

    def __init__(self, home: Home, run: RunFile, progress: Progress, console: Console) -> None:
        self._home, self._run, self._progress, self._console = home, run, progress, console
        self._config = run.table("demo", DemoConfig)
        self._known, self._new = _questions(self._config)

    def run(self) -> DemoReport:
        base = self._train()
        home = self._home
        home.logs.mkdir(exist_ok=True)
        port = launch.free_port()
        server = launch.start(
            home,
            "127.0.0.1",
            port,
            overrides=_overrides(self._run),
            log_file=home.logs / "server.log",
        )
        try:
            url = f"http://127.0.0.1:{port}"
            self._say(f"4/7 serve {base.tag} on {url}")
            launch.wait_ready(url, 60, server)
            return asyncio.run(self._live(base, f"{url}/v1"))
        finally:
            terminate([server], launch.GRACEFUL_SHUTDOWN_SECONDS + 10)

    def _train(self) -> ModelVersion:
        """Corpus, tokenizer, pre-training, fine-tuning, export; the result is the champion."""
        self._say("1/7 read and clean the documentation that comes with Python")
        info = build_data(self._home, self._run, self._progress)
        prepare_tokens(self._home, self._run, info)
        self._say("2/7 train: language first, then questions and answers")
        name = f"demo-{datetime.now(UTC):%Y%m%d%H%M%S}"
        checkpoint = train_run(self._home, self._run, name, "both", self._progress)
        self._say("3/7 export to ONNX, int8, and prove that it says the same")
        version = export_version(self._home, self._run, checkpoint)
        store = open_store(self._home.database_url)
        promote(store, version.tag, "the demo's own base model")
        store.close()
        return version

    async def _live(self, base: ModelVersion, url: str) -> DemoReport:
        client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
        user = SimulatedUser(
            client,
            base.manifest.name,
            answer_score,
            Manner(self._config.approve_at, self._config.correction_rate),
            self._config.seed,
        )
        self._say(
            "5/7 a simulated user asks, first about what the model knows, then about the network"
        )
        await self._ask(user, self._known, "known topics", rate=False)
        await self._ask(user, self._new, "new topics, rated", rate=True)
        drift, reports = self._compare()
        speed = (user.traffic.completion_tokens, user.traffic.seconds)
        self._say("6/7 one round of the loop, while the traffic goes on")
        result = await self._round(user)
        self._say("7/7 the same questions again")
        samples = await self._samples(user, result["dataset_id"])
        await client.close()
        return self._report(base, user.traffic, speed, result, drift, reports, samples)

    async def _ask(
        self, user: SimulatedUser, questions: Sequence[Question], title: str, *, rate: bool
    ) -> None:
        task = self._progress.add_task(title, total=len(questions))
        await user.converse(
            questions,
            concurrency=self._config.concurrency,
            rate=rate,
            answered=lambda: self._progress.advance(task),
        )

    def _compare(self) -> tuple[str, list[str]]:
        """The drift report of the traffic so far: its verdict, and where it lies."""
        config = self._run.table("drift", DriftConfig).model_copy(
            update={"current_rows": len(self._new), "reference_rows": len(self._known)}
        )
        try:
            report = compare_once(self._home, self._home.database_url, config)
        except RefusedError as error:
            return str(error), []
        return report.verdict, [str(report.html), str(report.json_report)]

    async def _samples(self, user: SimulatedUser, dataset_id: str | None) -> list[Sample]:
        """Held-out questions: what people wanted, what the base model said, what is said now."""
        if dataset_id is None:
            return []
        store = open_store(self._home.database_url)
        samples = []
        for row in store.dataset_rows(dataset_id, split="holdout", limit=SAMPLES):
            asked = next(source.id for source in row.sources if source.kind == "interaction")
            question, wanted = (message.content for message in (row.messages or ())[-2:])
            samples.append(
                Sample(
                    question=question,
                    wanted=wanted,
                    before=store.interaction(asked).answer or "",
                    after=await user.answer(Question(row.id, question, wanted)),
                )
            )
        store.close()
        return samples

    async def _round(self, user: SimulatedUser) -> dict[str, Any]:
        """Run `everloop loop run --once` as a process, with questions coming in all the while."""
        arguments = ["loop", "run", "--once", "--json", "--home", str(self._home.root)]
        for override in _overrides(self._run):
            arguments += ["--set", override]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "everloop", *arguments, stdout=subprocess.PIPE
        )
        is_over = asyncio.Event()
        endless = itertools.cycle([*self._known, *self._new])
        traffic = asyncio.create_task(
            user.converse(endless, concurrency=2, rate=False, until=is_over)
        )
        output, _ = await process.communicate()
        is_over.set()
        await traffic
        if process.returncode not in (0, RefusedError.exit_code):
            raise EverloopError(
                f"the round of the loop failed with exit code {process.returncode}; its error "
                "stands above. The champion answers as before."
            )
        result: dict[str, Any] = json.loads(output)
        return result

    def _report(
        self,
        base: ModelVersion,
        traffic: Traffic,
        speed: tuple[int, float],
        result: dict[str, Any],
        drift: str,
        reports: list[str],
        samples: list[Sample],
    ) -> DemoReport:
        gate = result["gate"] or {"verdict": "none", "reasons": result["reasons"], "numbers": {}}
        numbers = gate["numbers"]
        candidate = Registry(self._home).get(result["candidate"]) if result["candidate"] else None
        has_interval = {"ci95_low", "ci95_high"} <= numbers.keys()
        return DemoReport(
            val_loss_before=base.manifest.export.val_loss,
            val_loss_after=candidate.manifest.export.val_loss if candidate else None,
            quality_before=numbers.get("quality_before"),
            quality_after=numbers.get("quality_after"),
            quality_gain_ci95=(numbers["ci95_low"], numbers["ci95_high"]) if has_interval else None,
            gate=GateReport(verdict=gate["verdict"], reasons=gate["reasons"]),
            failed_requests=traffic.failed,
            answered_requests=traffic.answered,
            ttft_p50_s=percentile(traffic.ttft_seconds, 0.5),
            ttft_p95_s=percentile(traffic.ttft_seconds, 0.95),
            tokens_per_s=speed[0] / speed[1],
            seconds=0.0,
            peak_rss_bytes=0,
            champion=result["champion"],
            served_versions=traffic.model_versions,
            thumbs_up=traffic.thumbs_up,
            thumbs_down=traffic.thumbs_down,
            corrections=traffic.corrections,
            drift=drift,
            reports=reports,
            samples=samples,
        )

    def _say(self, text: str) -> None:
        self._console.print(text, style="bold", highlight=False)


def _questions(config: DemoConfig) -> tuple[list[Question], list[Question]]:
    """The user's questions: about other topics, and about the new ones; both shuffled by seed."""
    known: list[Question] = []
    new: list[Question] = []
    for pair in python_docs.pairs():
        question = Question(pair.id, pair.messages[0].content, pair.messages[-1].content)
        (new if pair.topic in config.topics else known).append(question)
    chance = random.Random(config.seed)
    chance.shuffle(known)
    chance.shuffle(new)
    return known[: config.known_questions], new[: config.questions]


def _overrides(run: RunFile) -> list[str]:
    """The whole run as `table.key=value`, for another process; JSON's values are TOML's too."""
    return [
        f"{table}.{key}={json.dumps(value)}"
        for table, values in run.values.items()
        for key, value in values.items()
    ]
