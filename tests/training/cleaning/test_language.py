import pytest
from datatrove.data import Document

from everloop.errors import ConfigError
from training.cleaning.config import LanguageConfig
from training.cleaning.language import LanguageFilter

TEXTS = {
    "en": "The quick brown fox jumps over the lazy dog, and nobody knows why it does so.",
    "de": "Der schnelle braune Fuchs springt über den faulen Hund, und niemand weiß warum.",
    "fr": "Le renard brun rapide saute sur le chien paresseux, et personne ne sait pourquoi.",
    "ru": "Быстрая коричневая лиса прыгает через ленивую собаку, и никто не знает почему.",
}


def document(text: str) -> Document:
    return Document(text=text, id="a")


@pytest.mark.parametrize("language", TEXTS)
def test_filter_recognises_the_language(language: str) -> None:
    item = document(TEXTS[language])
    assert LanguageFilter(LanguageConfig()).filter(item) is True
    assert item.metadata["language"] == language


def test_filter_drops_other_languages_and_keeps_what_is_undetermined() -> None:
    block = LanguageFilter(LanguageConfig(keep=("en", "ru")))
    assert block.filter(document(TEXTS["ru"])) is True
    assert block.filter(document(TEXTS["de"])) == (False, "de")
    unclear = document("x = 3.14")
    assert block.filter(unclear) is True
    assert unclear.metadata["language"] == "und"


def test_filter_refuses_a_language_that_it_does_not_know() -> None:
    with pytest.raises(ConfigError, match="'english' is no language"):
        LanguageFilter(LanguageConfig(keep=("english",)))
