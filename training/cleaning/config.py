"""Thresholds of the cleaning steps; part of the table `[data]`."""

from pydantic import Field

from everloop.settings import Config


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
