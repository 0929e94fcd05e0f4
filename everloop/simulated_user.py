"""A seeded simulated user: asks the service questions, rates the answers, corrects the bad ones.

It talks to the service as a person's program would, through the official `openai` client. It knows
a reference answer for each question; the service learns only what the user says.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import openai


@dataclass(frozen=True, slots=True)
class Question:
    """One question with the answer that the user has in mind.

    Attributes:
        max_tokens: the longest answer the user waits for; None for what the user's manner says.
    """

    id: str
    text: str
    reference: str
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Manner:
    """How the user judges.

    Attributes:
        approve_at: an answer with at least this score (0 to 1) gets a thumb up.
        correction_rate: the share of thumbs down that come with the reference as a correction.
        max_tokens: the longest answer the user waits for.
    """

    approve_at: float = 0.6
    correction_rate: float = 0.9
    max_tokens: int = 96


@dataclass(slots=True)
class Traffic:
    """What the user saw. Times are seconds."""

    answered: int = 0
    failed: int = 0
    thumbs_up: int = 0
    thumbs_down: int = 0
    corrections: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    ttft_seconds: list[float] = field(default_factory=list)
    model_versions: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """One streamed answer."""

    id: str
    model: str
    text: str
    completion_tokens: int
    ttft_seconds: float


class SimulatedUser:
    """Asks, rates and corrects through one `openai` client.

    Args:
        client: never retries by itself, so that each failure is seen and counted.
        score: how close an answer is to its reference, 0 to 1.
        seed: decides which bad answers are corrected.
    """

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        model: str,
        score: Callable[[str, str], float],
        manner: Manner,
        seed: int,
    ) -> None:
        self._client = client
        self._model = model
        self._score = score
        self._manner = manner
        self._random = random.Random(seed)
        self.traffic = Traffic()

    async def converse(
        self,
        questions: Iterable[Question],
        *,
        concurrency: int,
        rate: bool,
        until: asyncio.Event | None = None,
        pause_seconds: float = 0.0,
        answered: Callable[[], None] = lambda: None,
    ) -> None:
        """Work through the questions, a few at a time, and add what was seen to `traffic`.

        Args:
            questions: asked once each, in order.
            concurrency: how many are open at the same time.
            rate: give thumbs and corrections.
            until: stop asking when this is set.
            pause_seconds: what each of them waits before the next question.
            answered: called after each question.
        """
        started = time.perf_counter()
        shared = iter(questions)  # each worker takes the next question that nobody has

        async def work() -> None:
            for question in shared:
                if until is not None and until.is_set():
                    return
                await self._exchange(question, rate)
                answered()
                if pause_seconds:
                    await asyncio.sleep(pause_seconds)

        await asyncio.gather(*(work() for _ in range(concurrency)))
        self.traffic.seconds += time.perf_counter() - started

    async def answers(self, questions: Sequence[Question], concurrency: int = 8) -> list[str]:
        """Ask questions outside the counted traffic, a few at a time; answers in their order."""
        places = asyncio.Semaphore(concurrency)

        async def ask(question: Question) -> str:
            async with places:
                return (await self._ask(question)).text

        return list(await asyncio.gather(*map(ask, questions)))

    async def _exchange(self, question: Question, rate: bool) -> None:
        traffic = self.traffic
        try:
            answer = await self._ask(question)
            if rate:
                await self._rate(answer, question)
        except openai.APIError as error:
            traffic.failed += 1
            name = type(error).__name__
            traffic.errors[name] = traffic.errors.get(name, 0) + 1
            return
        traffic.answered += 1
        traffic.completion_tokens += answer.completion_tokens
        traffic.ttft_seconds.append(answer.ttft_seconds)
        traffic.model_versions[answer.model] = traffic.model_versions.get(answer.model, 0) + 1

    async def _ask(self, question: Question) -> Answer:
        started = time.perf_counter()
        ttft: float | None = None
        parts: list[str] = []
        identity = model = ""
        tokens = 0
        stream = await self._client.chat.completions.create(
            model=self._model,
            messages=[{"role": "user", "content": question.text}],
            temperature=0,
            max_tokens=question.max_tokens or self._manner.max_tokens,
            metadata={"conversation_id": question.id, "user": "simulated"},
            store=True,
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in stream:
            identity, model = chunk.id, chunk.model
            if chunk.usage:
                tokens = chunk.usage.completion_tokens
            for choice in chunk.choices:
                if choice.delta.content:
                    ttft = ttft or time.perf_counter() - started
                    parts.append(choice.delta.content)
        elapsed = time.perf_counter() - started
        return Answer(identity, model, "".join(parts), tokens, ttft or elapsed)

    async def _rate(self, answer: Answer, question: Question) -> None:
        good = self._score(answer.text, question.reference) >= self._manner.approve_at
        await self._say(answer, "thumbs", good)
        self.traffic.thumbs_up += good
        self.traffic.thumbs_down += not good
        if not good and self._random.random() < self._manner.correction_rate:
            await self._say(answer, "demonstration", question.reference)
            self.traffic.corrections += 1

    async def _say(self, answer: Answer, metric: str, value: bool | str) -> None:
        body = {"inference_id": answer.id, "metric_name": metric, "value": value}
        await self._client.post("/feedback", body=body, cast_to=object)


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value below which this share of all lies (nearest rank); None for no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None
