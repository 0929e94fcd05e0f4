"""Talk to a running service in the terminal, and tell it what was good: `everloop chat`."""

import uuid
from dataclasses import dataclass, field

import openai
from openai.types.chat import ChatCompletionMessageParam
from rich.console import Console

from everloop.errors import EverloopError

HELP = (
    "/up  good answer   /down  bad answer   /fix TEXT  the answer should have been TEXT   "
    "/new  start over   /quit"
)


@dataclass(slots=True)
class Conversation:
    """The turns so far, and the id of the last answer."""

    id: str = field(default_factory=lambda: f"chat-{uuid.uuid4().hex[:12]}")
    messages: list[ChatCompletionMessageParam] = field(default_factory=list)
    last_answer: str | None = None


def chat(url: str, console: Console, model: str = "everloop", max_tokens: int = 200) -> None:
    """Read questions until /quit or the end of input; stream the answers; send the ratings.

    Args:
        url: base URL of the service, with /v1.
        console: where to talk.

    Raises:
        EverloopError: no service answers at this address.
    """
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    try:
        served = [entry.id for entry in client.models.list()]
    except openai.APIConnectionError as error:
        raise EverloopError(f"no service answers at {url}. Start one with: everloop up") from error
    console.print(f"Talking to {served[-1]}. {HELP}", markup=False)
    conversation = Conversation()
    while True:
        try:
            line = console.input("[bold]you>[/bold] ").strip()
        except EOFError:
            return
        if line == "/quit":
            return
        try:
            conversation = _turn(client, console, conversation, line, model, max_tokens)
        except openai.APIError as error:
            console.print(f"error: {error.message}", markup=False, style="red")


def _turn(
    client: openai.OpenAI,
    console: Console,
    conversation: Conversation,
    line: str,
    model: str,
    max_tokens: int,
) -> Conversation:
    command, _, rest = line.partition(" ")
    if command == "/new":
        return Conversation()
    if command in ("/up", "/down", "/fix"):
        _rate(client, console, conversation, command, rest.strip())
    elif command.startswith("/"):
        console.print(HELP, markup=False)
    elif line:
        _answer(client, console, conversation, line, model, max_tokens)
    return conversation


def _rate(
    client: openai.OpenAI, console: Console, conversation: Conversation, command: str, text: str
) -> None:
    if conversation.last_answer is None or (command == "/fix" and not text):
        console.print("Ask something first, and write the better answer after /fix.", markup=False)
        return
    metric, value = ("demonstration", text) if command == "/fix" else ("thumbs", command == "/up")
    body = {"inference_id": conversation.last_answer, "metric_name": metric, "value": value}
    client.post("/feedback", body=body, cast_to=object)
    console.print("noted, thank you", style="dim")


def _answer(
    client: openai.OpenAI,
    console: Console,
    conversation: Conversation,
    line: str,
    model: str,
    max_tokens: int,
) -> None:
    conversation.messages.append({"role": "user", "content": line})
    parts: list[str] = []
    stream = client.chat.completions.create(
        model=model,
        messages=conversation.messages,
        max_tokens=max_tokens,
        temperature=0,
        metadata={"conversation_id": conversation.id},
        stream=True,
    )
    for chunk in stream:
        conversation.last_answer = chunk.id
        for choice in chunk.choices:
            parts.append(choice.delta.content or "")
            console.out(parts[-1], end="", highlight=False)
    console.print()
    conversation.messages.append({"role": "assistant", "content": "".join(parts)})
