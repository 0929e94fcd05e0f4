"""The cleaning steps in their order, and the run of them inside this process.

`build_steps` gives an ordinary datatrove pipeline: the same list, with a reader before and a writer
behind it, runs under datatrove's executors.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

from datatrove.data import Document as TroveDocument
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters import GopherQualityFilter
from datatrove.pipeline.formatters import FTFYFormatter
from datatrove.pipeline.writers.disk_base import DiskWriter

from everloop.records import Document, Message
from training.cleaning.config import CleanConfig
from training.cleaning.duplicates import ExactDuplicateFilter
from training.cleaning.length import LengthFilter
from training.cleaning.personal_data import MaskPersonalData
from training.cleaning.special_tokens import SpecialTokenFilter
from training.cleaning.turns import EachTurn, TextOnly, join_turns
from training.corpus import Conversation, Dropped
from training.tokenizer import SPECIAL_TOKENS

ExclusionFactory = Callable[[str], DiskWriter | None]


def build_steps(config: CleanConfig, exclusion: ExclusionFactory) -> list[PipelineStep]:
    """List the cleaning steps, cheap ones first.

    Args:
        config: their thresholds.
        exclusion: gives each dropping step, by its name, the writer that keeps what it drops; None
            keeps nothing.
    """
    gopher = GopherQualityFilter(
        min_doc_words=config.min_words,
        max_doc_words=config.max_words,
        min_avg_word_length=config.min_mean_word_length,
        max_avg_word_length=config.max_mean_word_length,
        max_symbol_word_ratio=config.max_symbol_word_ratio,
        max_bullet_lines_ratio=config.max_bullet_lines_ratio,
        max_ellipsis_lines_ratio=config.max_ellipsis_lines_ratio,
        max_non_alpha_words_ratio=config.min_alpha_words_ratio,
        min_stop_words=config.min_stop_words,
    )
    length = LengthFilter(config.min_characters, config.max_characters)
    return [
        EachTurn(FTFYFormatter()),
        EachTurn(MaskPersonalData()),
        SpecialTokenFilter(SPECIAL_TOKENS, exclusion("special_tokens")),
        TextOnly(length, exclusion("length")),
        ExactDuplicateFilter(exclusion("duplicates")),
        TextOnly(gopher, exclusion("quality")),
    ]


class Cleaner:
    """Run the steps over a stream in this process; nothing is held back between documents.

    Args:
        config: thresholds of the steps.
        on_drop: is given every document that a step drops.
    """

    def __init__(self, config: CleanConfig, on_drop: Callable[[Dropped], None]) -> None:
        self.steps = build_steps(config, lambda step: _Exclusion(step, on_drop))

    def run(self, items: Iterable[Document | Conversation]) -> Iterator[Document | Conversation]:
        """Clean a stream; what comes out keeps its id, source and licence."""
        stream: Iterable[TroveDocument] = map(to_datatrove, items)
        for step in self.steps:
            stream = step(stream)
        return map(from_datatrove, stream)

    @property
    def masked(self) -> dict[str, int]:
        """How many finds of personal data were masked so far, by kind."""
        found: Counter[str] = Counter()
        for step in self.steps:
            if isinstance(step, EachTurn):
                for label, numbers in step.formatter.stats.stats.items():
                    if label.startswith("masked_"):
                        found[label.removeprefix("masked_")] += int(numbers.total)
        return dict(found)


class _Exclusion:
    """What datatrove calls an exclusion writer, handing each document on as it comes."""

    def __init__(self, step: str, on_drop: Callable[[Dropped], None]) -> None:
        self._step = step
        self._on_drop = on_drop

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def write(self, document: TroveDocument, rank: int = 0) -> None:  # noqa: ARG002
        reason = document.metadata["filter_reason"].removeprefix("gopher_")
        self._on_drop(
            Dropped(
                id=document.id,
                source=document.metadata["source"],
                step=self._step,
                reason=_REASONS.get(reason, reason),
                text=document.text,
            )
        )


# datatrove's word for the rule "too few stop words" says the opposite.
_REASONS = {"enough_stop_words": "too_few_stop_words"}


def to_datatrove(item: Document | Conversation) -> TroveDocument:
    """Carry a document or conversation into datatrove's form; all of its fields go along."""
    if isinstance(item, Document):
        metadata = item.model_dump(exclude={"id", "text"})
        return TroveDocument(text=item.text, id=item.id, metadata=metadata)
    metadata = item.model_dump(exclude={"id"})
    metadata["messages"] = list(metadata["messages"])
    return TroveDocument(text=join_turns(metadata["messages"]), id=item.id, metadata=metadata)


def from_datatrove(document: TroveDocument) -> Document | Conversation:
    """The way back; fields that a step added are left behind."""
    fields = document.metadata
    if "messages" not in fields:
        known = {name: fields[name] for name in ("source", "licence", "sha256")}
        return Document(id=document.id, text=document.text, **known)
    messages = tuple(Message(**turn) for turn in fields["messages"])
    known = {name: fields[name] for name in ("source", "licence", "document", "topic")}
    return Conversation(id=document.id, messages=messages, **known)
