"""Talk to a running service in the terminal, and tell it what was good: `everloop chat`.

Ctrl-C stops an answer, the end of input the program. When a conversation outgrows the model, its
oldest turns are left out.
"""

import contextlib
import uuid
from dataclasses import dataclass, field

import openai
from openai.types.chat import ChatCompletionMessageParam
from rich.console import Console

from everloop.errors import EverloopError

HELP = (
    "/up  good answer   /down  bad answer   /fix TEXT  the answer should have been TEXT\n"
    "/again  another answer   /new  start over   /quit   Ctrl-C  stop the answer"
)


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How answers are asked for.

    Attributes:
        max_tokens: length of an answer, if so much fits.
        temperature: of a first answer; another answer is always sampled.
        system: what the model is told before the conversation.
    """

    max_tokens: int = 200
    temperature: float = 0.0
    system: str | None = None


@dataclass(slots=True)
class Conversation:
    """The answered turns so far, and the id of the last answer."""

    id: str = field(default_factory=lambda: f"chat-{uuid.uuid4().hex[:12]}")
    messages: list[ChatCompletionMessageParam] = field(default_factory=list)
    last_answer: str | None = None

    def retract(self) -> str | None:
        """Take back the last question and its answer; None if there is none."""
        if not self.messages:
            return None
        *self.messages, question, _ = self.messages
        return str(question["content"])


def chat(url: str, console: Console, options: ChatOptions | None = None) -> None:
    """Read questions until /quit or the end of input; stream the answers; send the ratings.

    Args:
        url: base URL of the service, with /v1.
        console: where to talk.
        options: how answers are asked for.

    Raises:
        EverloopError: no service answers at this address, or it has no model yet.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - input() then has a history and an editable line
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    try:
        served = [entry.id for entry in client.models.list()]
    except openai.APIConnectionError as error:
        raise EverloopError(f"no service answers at {url}. Start one with: everloop up") from error
    if not served:
        raise EverloopError(f"the service at {url} has no model yet. Try again in a moment.")
    console.print(f"Talking to {served[-1]}\n{HELP}", markup=False, highlight=False)
    talk = Talk(client, console, served[0], options or ChatOptions())
    while talk.take(_read(console)):
        pass


def _read(console: Console) -> str:
    """The next line; the end of input is a wish to quit."""
    while True:
        try:
            return input("\nyou> ").strip()
        except KeyboardInterrupt:  # meant for an answer that was complete already
            console.print("\n/quit or Ctrl-D ends", markup=False, style="dim")
        except EOFError:
            console.print()
            return "/quit"


class Talk:
    """One conversation after another with one model."""

    def __init__(
        self, client: openai.OpenAI, console: Console, model: str, options: ChatOptions
    ) -> None:
        self.conversation = Conversation()
        self._client = client
        self._console = console
        self._model = model
        self._options = options

    def take(self, line: str) -> bool:
        """Act on a line; False when it was the last."""
        try:
            return self._act(line)
        except openai.APIError as error:
            self._note(f"error: {_message(error)}", style="red")
        return True

    def _act(self, line: str) -> bool:
        command, _, rest = line.partition(" ")
        match command:
            case "/quit" | "/exit":
                return False
            case "/new":
                self.conversation = Conversation()
                self._note("a new conversation")
            case "/again":
                question = self.conversation.retract()
                if question is None:
                    self._note("ask something first")
                else:
                    # Sampled as the model is meant to be, where the first answer is greedy.
                    self._answer(question, self._options.temperature or openai.omit)
            case "/up" | "/down":
                self._rate("thumbs", command == "/up")
            case "/fix":
                self._correct(rest.strip())
            case _ if command.startswith("/"):
                self._console.print(HELP, markup=False, highlight=False)
            case _ if line:
                self._answer(line, self._options.temperature)
        return True

    def _correct(self, text: str) -> None:
        if not text:
            self._note("write the better answer after /fix")
        elif self._rate("demonstration", text):
            self.conversation.messages[-1] = {"role": "assistant", "content": text}

    def _rate(self, metric: str, value: bool | str) -> bool:
        inference = self.conversation.last_answer
        if inference is None:
            self._note("ask something first")
            return False
        body = {"inference_id": inference, "metric_name": metric, "value": value}
        self._client.post("/feedback", body=body, cast_to=object)
        self._note("noted, thank you")
        return True

    def _answer(self, question: str, temperature: float | openai.Omit) -> None:
        stream = self._open(question, temperature)
        parts: list[str] = []
        reason = None
        try:
            with stream:
                for chunk in stream:
                    for choice in chunk.choices:
                        parts.append(choice.delta.content or "")
                        self._console.out(parts[-1], end="", highlight=False)
                        reason = choice.finish_reason or reason
                    self.conversation.last_answer = chunk.id
        except KeyboardInterrupt:
            # Not whole, so the service has not kept it as an answer that could be rated.
            self.conversation.last_answer = None
            self._console.print()
            self._note("stopped")
            return
        self._console.print()
        if reason == "length":
            self._note("cut off at its longest")
        self.conversation.messages += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": "".join(parts)},
        ]

    def _open(
        self, question: str, temperature: float | openai.Omit
    ) -> "openai.Stream[openai.types.chat.ChatCompletionChunk]":
        """Ask; without the oldest turns, and then for a shorter answer, if it does not fit."""
        conversation, options = self.conversation, self._options
        limit: int | openai.Omit = options.max_tokens
        while True:
            system = [options.system] if options.system else []
            messages: list[ChatCompletionMessageParam] = [
                *({"role": "system", "content": text} for text in system),  # type: ignore[list-item]
                *conversation.messages,
                {"role": "user", "content": question},
            ]
            try:
                return self._client.chat.completions.create(
                    model=self._model,
                    messages=messages,
                    max_tokens=limit,
                    temperature=temperature,
                    metadata={"conversation_id": conversation.id},
                    stream=True,
                )
            except openai.BadRequestError as error:
                if error.code != "context_length_exceeded" or limit is openai.omit:
                    raise
                if conversation.messages:
                    conversation.messages = conversation.messages[2:]
                    self._note("the oldest turns do not fit any more and are left out")
                else:
                    limit = openai.omit

    def _note(self, text: str, style: str = "dim") -> None:
        self._console.print(text, markup=False, highlight=False, style=style)


def _message(error: openai.APIError) -> str:
    """The server's own sentence, without the client's words around it."""
    body = error.body
    return str(body["message"]) if isinstance(body, dict) and "message" in body else error.message
