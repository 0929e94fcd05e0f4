"""What the reasons of drops mean, in words, with the setting that decides; for cards and messages.

The names are datatrove's and those of the readers; nothing here decides anything.
"""

import re

_MEANINGS = {
    # read
    "file_type": "a file of a type that is not read; format in [[data.source]] names another's",
    "no_text": "a row without the text's key; text_field names another",
    "no_question_and_answer": "a row without a text under prompt_field or completion_field",
    "not_json": "a line that is no JSON",
    "not_utf8": "a line that is not UTF-8",
    "not_an_object": "a value that is no object with keys",
    "lone_surrogate": "half of a character, which no encoding can write",
    "no_messages": "a conversation without turns",
    "no_answer": "a conversation that does not end with the assistant",
    "empty_answer": "an answer to learn without a visible character, and without a call",
    "no_prompt": "a preference without a question",
    "no_preference": "a preference between two equal answers, white space aside",
    "no_weighted_answer": "a conversation whose every answer has weight 0",
    "weight_zero_inside": "an answer of weight 0 before others, which cannot be cut off",
    "bad_message": "a turn of another form, such as with an unknown role or an image",
    "bad_label": "a label that is neither true nor false",
    "bad_tools": "tools that are no list of functions",
    "functions_instead_of_tools": "OpenAI's older functions; write them as tools",
    "stepwise_supervision": "ratings of single steps, from which no method here learns",
    "content_type": "a record of a web archive that is no page",
    "no_main_text": "a page of which nothing but menus and footers is left",
    "no_text_layer": "a PDF of pictures; it needs character recognition first",
    # special tokens, length, language, blocklist
    "special_token": "a turn that writes a mark of the chat format",
    "too_short": "fewer characters than min_characters",
    "too_long": "more characters than max_characters",
    "blocked_word": "a word of the file in [data.blocklist]",
    # quality
    "short_doc": "fewer words than min_words",
    "long_doc": "more words than max_words",
    "below_avg_threshold": "a shorter mean word than min_mean_word_length",
    "above_avg_threshold": "a longer mean word than max_mean_word_length",
    "too_many_hashes": "more # per word than max_symbol_word_ratio",
    "too_many_ellipsis": "more ellipses per word than max_symbol_word_ratio",
    "too_many_bullets": "more list items than max_bullet_lines_ratio",
    "too_many_end_ellipsis": "more lines that end in an ellipsis than max_ellipsis_lines_ratio",
    "below_alpha_threshold": "fewer words with a letter than min_alpha_words_ratio",
    "too_few_stop_words": "fewer English stop words than min_stop_words",
    # repetition, c4, fineweb
    "dup_para_frac": "repeated paragraphs above max_duplicate_paragraphs",
    "dup_para_char_frac": "repeated paragraphs above max_duplicate_paragraph_characters",
    "dup_line_frac": "repeated lines above max_duplicate_lines",
    "dup_line_char_frac": "repeated lines above max_duplicate_line_characters",
    "lorem_ipsum": "placeholder Latin",
    "curly_bracket": "a { in a line, such as code",
    "too_few_sentences": "fewer sentences than min_sentences, once its lines are cut",
    "empty": "nothing left",
    "line_punct_ratio": "fewer lines that end a sentence than min_punctuated_lines",
    "short_line_ratio": "more short lines than max_short_lines",
    "char_dup_ratio": "repeated lines above max_duplicate_line_characters",
    "list_ratio": "more line breaks per word than max_newlines_per_word",
    # duplicates
    "duplicate": "the same as another, white space aside",
    "near_duplicate": "almost the same as another; similarity in [data.duplicates]",
}
_OF_STEPS = {
    "language": "not among the languages of [data.language] keep",
    "decontamination": "word sequences of this evaluation set",
    "exclude_topics": "a topic of exclude_topics",
}
_NGRAMS = re.compile(r"top_\d_gram|duplicated_\d+_n_grams")


def explain(step: str, reason: str) -> str:
    """Say in words why a document was dropped; nothing for a reason that is not known here."""
    if _NGRAMS.fullmatch(reason):
        return "repeated word sequences above max_top_ngrams or max_duplicate_ngrams"
    return _OF_STEPS.get(step) or _MEANINGS.get(reason, "")
