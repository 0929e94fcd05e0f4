"""Thresholds of the cleaning steps; part of the table `[data]`, one sub-table per family of rules.

A family whose `enabled` is false costs nothing. `configs/web.toml` switches all of them on.
"""

from typing import Literal

from pydantic import Field

from everloop.pii import KINDS
from everloop.settings import Config


class LanguageConfig(Config):
    """[data.language]: which languages stay. Recognised by py3langid, whose model is inside it."""

    keep: tuple[str, ...] = Field(
        (), strict=False, description='ISO 639-1 codes, such as ["en"]; all languages if empty.'
    )
    min_confidence: float = Field(
        0.5, ge=0, le=1, description="Below it a text counts as undetermined (und), and stays."
    )
    characters: int = Field(2000, ge=20, description="Beginning of a text that is looked at.")


class RepetitionConfig(Config):
    """[data.repetition]: texts that repeat themselves. Source: Gopher, arXiv:2112.11446, A1."""

    enabled: bool = Field(False, description="Whether these rules are applied.")
    max_duplicate_lines: float = Field(0.3, ge=0, le=1, description="Share of lines; 0 is off.")
    max_duplicate_paragraphs: float = Field(0.3, ge=0, le=1, description="Share; 0 is off.")
    max_duplicate_line_characters: float = Field(
        0.2, ge=0, le=1, description="Share of the characters in repeated lines; 0 is off."
    )
    max_duplicate_paragraph_characters: float = Field(
        0.2, ge=0, le=1, description="Share of the characters in repeated paragraphs; 0 is off."
    )
    max_top_ngrams: tuple[float, ...] = Field(
        (0.2, 0.18, 0.16),
        strict=False,
        description="Share of the characters in the most frequent n-gram; n = 2, 3, 4.",
    )
    max_duplicate_ngrams: tuple[float, ...] = Field(
        (0.15, 0.14, 0.13, 0.12, 0.11, 0.10),
        strict=False,
        description="Share of the characters in repeated n-grams; n = 5 to 10.",
    )


class C4Config(Config):
    """[data.c4]: lines and pages that are no prose. Source: C4, JMLR 21 (2020) 140.

    These rules cut lines out of the texts that stay.
    """

    enabled: bool = Field(False, description="Whether these rules are applied.")
    terminal_punctuation: bool = Field(True, description="Cut lines that end no sentence.")
    min_words_per_line: int = Field(3, ge=0, description="Cut shorter lines.")
    max_word_length: int = Field(1000, ge=1, description="Cut lines with a longer word.")
    min_sentences: int = Field(5, ge=0, description="Fewest sentences of what is left.")
    lorem_ipsum: bool = Field(True, description="Drop texts with placeholder Latin.")
    curly_bracket: bool = Field(True, description="Drop texts with a { in a line, such as code.")
    javascript: bool = Field(True, description="Cut lines about JavaScript.")
    policy: bool = Field(True, description="Cut lines about cookies and terms of use.")
    citations: bool = Field(True, description="Cut [1], [edit] and [citation needed].")


class FineWebConfig(Config):
    """[data.fineweb]: lists, menus and tables. Source: FineWeb, arXiv:2406.17557."""

    enabled: bool = Field(False, description="Whether these rules are applied.")
    min_punctuated_lines: float = Field(
        0.12, ge=0, le=1, description="Smallest share of lines that end a sentence."
    )
    max_short_lines: float = Field(0.67, ge=0, le=1, description="Largest share of short lines.")
    short_line_characters: int = Field(30, ge=1, description="What a short line is.")
    max_duplicate_line_characters: float = Field(
        0.01, ge=0, le=1, description="Largest share of the characters in repeated lines."
    )
    max_newlines_per_word: float = Field(0.3, ge=0, description="More of them is a list.")


class DuplicatesConfig(Config):
    """[data.duplicates]: texts that say almost the same; conversations are compared exactly.

    MinHash over word n-grams finds candidates, all hashes together verify each of them. Pairs of
    two-word sequences see a text again in which every fifth word was changed; five-word sequences,
    the usual choice, do not (Jaccard 0.2).
    """

    near: bool = Field(True, description="False: only exact duplicates, white space aside.")
    similarity: float = Field(
        0.4, gt=0, le=1, description="Jaccard similarity of the n-grams from which a text goes."
    )
    ngram_words: int = Field(2, ge=1, le=20, description="Words in an n-gram.")
    buckets: int = Field(48, ge=1, le=500, description="Bands of the search; more find more.")
    hashes_per_bucket: int = Field(
        4, ge=1, le=32, description="Equal hashes that make two texts a candidate."
    )


class DecontaminationConfig(Config):
    """[data.decontamination]: texts that hold what the model will be judged by."""

    sets: dict[str, str] = Field(
        {}, description="Name of an evaluation set -> its file, folder or glob pattern."
    )
    ngram_words: int = Field(12, ge=3, le=50, description="Words in a row that give it away.")


class PersonalDataConfig(Config):
    """[data.personal_data]: what is masked in texts and turns (`everloop/pii.py`)."""

    kinds: tuple[str, ...] = Field(
        KINDS, strict=False, description=f"Of {', '.join(KINDS)}; none switches masking off."
    )


class BlocklistConfig(Config):
    """[data.blocklist]: words and phrases of the user's choice."""

    file: str | None = Field(
        None, description="One word or phrase per line; a text or conversation with one goes."
    )


class ExecutorConfig(Config):
    """[data.executor]: where the steps run; the steps are the same everywhere.

    The home folder must be one that all machines share for ray (several machines) and slurm.
    """

    kind: Literal["local", "ray", "slurm"] = Field("local", description="local, ray or slurm.")
    workers: int = Field(1, ge=1, description="Tasks that run at the same time.")
    task_megabytes: float = Field(
        64.0, gt=0, description="Input of one task: what is done again after a kill, at most."
    )
    memory_gigabytes: int = Field(2, ge=1, description="Per task; ray and slurm reserve it.")
    ray_address: str | None = Field(
        None, description="Of a running cluster; a local one is started if absent."
    )
    partition: str = Field("cpu", description="Slurm's partition.")
    time: str = Field("12:00:00", description="Slurm's limit for one task.")
    environment: str = Field("", description="Shell command before a Slurm task, such as activate.")


class CleanConfig(Config):
    """What a text must look like to stay. The defaults fit short technical prose.

    Source of the word and line rules: Gopher, arXiv:2112.11446, table A1; its own thresholds
    (50 words, 80 % alphabetic words) are made for web pages and would refuse most reference
    documentation, whose words are half punctuation.
    """

    min_characters: int = Field(40, ge=1, description="Shortest text, in characters.")
    max_characters: int = Field(1_000_000, ge=1, description="Longest text, in characters.")
    min_words: int = Field(8, ge=1, description="Fewest words of a text.")
    max_words: int = Field(100_000, ge=1, description="Most words of a text.")
    min_mean_word_length: float = Field(2.0, ge=0, description="Shortest mean word, characters.")
    max_mean_word_length: float = Field(12.0, gt=0, description="Longest mean word, characters.")
    max_symbol_word_ratio: float = Field(
        0.2, ge=0, description="Most # or ellipses per word; 0 switches the rule off."
    )
    max_bullet_lines_ratio: float = Field(
        0.9, ge=0, le=1, description="Largest share of lines that are list items; 0 is off."
    )
    max_ellipsis_lines_ratio: float = Field(
        0.3, ge=0, le=1, description="Largest share of lines that end in an ellipsis; 0 is off."
    )
    min_alpha_words_ratio: float = Field(
        0.4, ge=0, le=1, description="Smallest share of words with a letter in them; 0 is off."
    )
    min_stop_words: int = Field(
        1, ge=0, description="Fewest of the, be, to, of, and, that, have, with; 0 for no English."
    )
    language: LanguageConfig = Field(LanguageConfig(), description="Table [data.language].")
    repetition: RepetitionConfig = Field(RepetitionConfig(), description="[data.repetition].")
    c4: C4Config = Field(C4Config(), description="Table [data.c4].")
    fineweb: FineWebConfig = Field(FineWebConfig(), description="Table [data.fineweb].")
    duplicates: DuplicatesConfig = Field(DuplicatesConfig(), description="[data.duplicates].")
    decontamination: DecontaminationConfig = Field(
        DecontaminationConfig(), description="Table [data.decontamination]."
    )
    personal_data: PersonalDataConfig = Field(
        PersonalDataConfig(), description="Table [data.personal_data]."
    )
    blocklist: BlocklistConfig = Field(BlocklistConfig(), description="[data.blocklist].")
    executor: ExecutorConfig = Field(ExecutorConfig(), description="Table [data.executor].")
