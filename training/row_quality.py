"""How good a network is on held-out rows: loss, perplexity and bits per byte, by source.

Loss is nats per token; bits per byte makes models with different vocabularies comparable. Unlike
the validation of a run, every row counts from its first token to its last, each text by itself.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from everloop.errors import DataError
from everloop.records import DatasetRow
from training.encoded_rows import forges_marks, split_answer
from training.scoring import Continuation, log_likelihoods
from training.text_marks import special_texts, text_context
from training.tokenizer import encode_plain


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The quality of a network over some rows."""

    rows: int
    tokens: int
    size_bytes: int
    nats: float  # of all tokens together

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """The number of tokens among which the network is undecided on average."""
        return math.exp(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """Bits of UTF-8."""
        return self.nats / math.log(2) / self.size_bytes

    def __add__(self, other: "Evaluation") -> "Evaluation":
        return Evaluation(
            self.rows + other.rows,
            self.tokens + other.tokens,
            self.size_bytes + other.size_bytes,
            self.nats + other.nats,
        )


def evaluate_rows(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[DatasetRow]
) -> dict[str, Evaluation]:
    """Measure a network over texts and the answers of conversations.

    Returns:
        By kind of row and, where rows have one, by topic: `text`, `text: asyncio`, `chat`, ….

    Raises:
        DataError: no row is a text or a conversation.
    """
    length = network.config.max_position_embeddings
    parts: list[tuple[DatasetRow, Continuation]] = []
    for row in rows:
        parts += [(row, part) for part in _continuations(row, tokenizer, length)]
    if not parts:
        raise DataError("there is nothing to evaluate on: no row is a text or a conversation.")
    scores = log_likelihoods(network, [part for _, part in parts])
    nats: dict[str, float] = defaultdict(float)
    tokens: dict[str, int] = defaultdict(int)
    for (row, (_, scored)), score in zip(parts, scores, strict=True):
        nats[row.id] -= float(score)
        tokens[row.id] += len(scored)
    groups: dict[str, Evaluation] = {}
    for row in rows:
        if row.id in nats:
            one = Evaluation(1, tokens[row.id], _size_bytes(row), nats[row.id])
            for name in (row.kind, *([f"{row.kind}: {row.topic}"] if row.topic else [])):
                groups[name] = groups[name] + one if name in groups else one
    return dict(sorted(groups.items()))


def _continuations(
    row: DatasetRow, tokenizer: PreTrainedTokenizerBase, context_length: int
) -> Iterator[Continuation]:
    """What is scored of a row; a long text in pieces, each after its predecessor's last token."""
    if row.kind == "text":
        ids = [
            *text_context(tokenizer),
            *encode_plain(tokenizer.backend_tokenizer, [row.text or ""])[0],
        ]
        for at in range(1, len(ids), context_length - 1):
            yield ids[at - 1 : at], ids[at : at + context_length - 1]
    elif row.kind == "chat" and not forges_marks(
        row.messages or (), row.tools, special_texts(tokenizer)
    ):
        asked, answer = split_answer(row.messages or (), tokenizer, row.tools)
        asked = asked[-max(1, context_length - len(answer)) :]
        if answer and len(asked) + len(answer) <= context_length:
            yield asked, answer


def _size_bytes(row: DatasetRow) -> int:
    text = row.text if row.messages is None else row.messages[-1].content
    return len((text or "").encode("utf-8"))
