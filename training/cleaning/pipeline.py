"""The cleaning steps in their order: an ordinary datatrove pipeline without reader and writer."""

from collections.abc import Callable
from pathlib import Path

from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.formatters import FTFYFormatter
from datatrove.pipeline.writers.disk_base import DiskWriter

from training.cleaning.blocklist import BlocklistFilter
from training.cleaning.config import C4Config, CleanConfig, FineWebConfig, RepetitionConfig
from training.cleaning.decontamination import ContaminationFilter
from training.cleaning.language import LanguageFilter
from training.cleaning.length import LengthFilter
from training.cleaning.personal_data import MaskPersonalData
from training.cleaning.special_tokens import SpecialTokenFilter
from training.cleaning.turns import EachTurn, TextOnly
from training.cleaning.words import RegexWords
from training.tokenizer import SPECIAL_TOKENS

ExclusionFactory = Callable[[str], DiskWriter | None]


def build_steps(
    config: CleanConfig, exclusion: ExclusionFactory, contamination: Path | None = None
) -> list[PipelineStep]:
    """List the cleaning steps, cheap ones first.

    Args:
        config: their thresholds.
        exclusion: gives each dropping step, by its name, the writer that keeps what it drops; None
            keeps nothing.
        contamination: index of the evaluation sets, if there are any.

    Raises:
        ConfigError: the blocklist cannot be used, or a language is unknown.
    """
    words = RegexWords()  # one for all: datatrove splits a text once per splitter
    steps: list[PipelineStep] = [
        EachTurn(FTFYFormatter()),
        EachTurn(MaskPersonalData(config.personal_data.kinds)),
        SpecialTokenFilter(SPECIAL_TOKENS, exclusion("special_tokens")),
    ]
    if config.c4.enabled:  # before the others: it cuts lines out of what they judge
        steps.append(TextOnly(_c4(config.c4, words), exclusion("c4")))
    length = LengthFilter(config.min_characters, config.max_characters)
    steps += [
        TextOnly(length, exclusion("length")),
        LanguageFilter(config.language, exclusion("language")),
    ]
    if config.blocklist.file is not None:
        steps.append(BlocklistFilter(Path(config.blocklist.file), exclusion("blocklist")))
    steps.append(TextOnly(_gopher(config, words), exclusion("quality")))
    if config.repetition.enabled:
        steps.append(TextOnly(_repetition(config.repetition, words), exclusion("repetition")))
    if config.fineweb.enabled:
        steps.append(TextOnly(_fineweb(config.fineweb, words), exclusion("fineweb")))
    if contamination is not None:
        size = config.decontamination.ngram_words
        steps.append(ContaminationFilter(contamination, size, words, exclusion("decontamination")))
    return steps


def _gopher(config: CleanConfig, words: RegexWords) -> BaseFilter:
    return GopherQualityFilter(
        min_doc_words=config.min_words,
        max_doc_words=config.max_words,
        min_avg_word_length=config.min_mean_word_length,
        max_avg_word_length=config.max_mean_word_length,
        max_symbol_word_ratio=config.max_symbol_word_ratio,
        max_bullet_lines_ratio=config.max_bullet_lines_ratio,
        max_ellipsis_lines_ratio=config.max_ellipsis_lines_ratio,
        max_non_alpha_words_ratio=config.min_alpha_words_ratio,
        min_stop_words=config.min_stop_words,
        language=words,
    )


def _repetition(config: RepetitionConfig, words: RegexWords) -> BaseFilter:
    return GopherRepetitionFilter(
        dup_line_frac=config.max_duplicate_lines,
        dup_para_frac=config.max_duplicate_paragraphs,
        dup_line_char_frac=config.max_duplicate_line_characters,
        dup_para_char_frac=config.max_duplicate_paragraph_characters,
        top_n_grams=tuple(enumerate(config.max_top_ngrams, start=2)),
        dup_n_grams=tuple(enumerate(config.max_duplicate_ngrams, start=5)),
        language=words,
    )


def _c4(config: C4Config, words: RegexWords) -> BaseFilter:
    return C4QualityFilter(
        remove_citations=config.citations,
        filter_no_terminal_punct=config.terminal_punctuation,
        min_num_sentences=config.min_sentences,
        min_words_per_line=config.min_words_per_line,
        max_word_length=config.max_word_length,
        filter_lorem_ipsum=config.lorem_ipsum,
        filter_javascript=config.javascript,
        filter_curly_bracket=config.curly_bracket,
        filter_policy=config.policy,
        language=words,
    )


def _fineweb(config: FineWebConfig, words: RegexWords) -> BaseFilter:
    return FineWebQualityFilter(
        line_punct_thr=config.min_punctuated_lines,
        short_line_thr=config.max_short_lines,
        short_line_length=config.short_line_characters,
        char_duplicates_ratio=config.max_duplicate_line_characters,
        new_line_ratio=config.max_newlines_per_word,
        language=words,
    )
