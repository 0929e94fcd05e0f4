"""Request fields that clients know and this server does not do: refused by name, never ignored.

A value that asks for nothing (null, or one listed here, the API's own default) is fine. Fields that
are in no table are unknown and pass: clients may send what a later version of the API brings.
"""

from collections.abc import Mapping

from serving.openai_api.errors import ApiError

Table = Mapping[str, tuple[object, ...]]  # field -> values that ask for nothing

# Extras of other servers that change the answer.
_GENERATION: dict[str, tuple[object, ...]] = {
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "bad_words": ([],),
    "allowed_token_ids": ([],),
    "prompt_logprobs": (0,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
}

CHAT: Table = {
    **_GENERATION,
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "moderation": (),
    "prediction": (),
    "reasoning_effort": (),
    "web_search_options": (),
    "verbosity": ("medium",),
    "service_tier": ("auto", "default"),
    "echo": (False,),
    "best_of": (1,),
    "chat_template": (),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
}

COMPLETIONS: Table = {**_GENERATION, "suffix": ("",)}

MESSAGE: Table = {"audio": (), "refusal": ("",), "function_call": ()}

STRUCTURED_OUTPUTS: Table = {
    "structural_tag": (),
    "disable_fallback": (False, True),
    "disable_any_whitespace": (False,),
    "disable_additional_properties": (False,),
    "whitespace_pattern": (),
}

EMBEDDINGS: Table = {
    "truncate_prompt_tokens": (),
    "instruction": (),
}

TOKENIZE: Table = {
    "chat_template": (),
    "continue_final_message": (False,),
    "mm_processor_kwargs": ({},),
}

# Fields that another field has replaced.
_INSTEAD = {
    "functions": "Send tools.",
    "function_call": "Send tool_choice.",
    "guided_json": "Send structured_outputs.json.",
    "guided_regex": "Send structured_outputs.regex.",
    "guided_choice": "Send structured_outputs.choice.",
    "guided_grammar": "Send structured_outputs.grammar.",
}


def refuse_unsupported(fields: Mapping[str, object], table: Table, prefix: str = "") -> None:
    """Raise on the first field that asks for something the server does not do.

    Raises:
        ApiError: names the field.
    """
    for name, harmless in table.items():
        value = fields.get(name)
        if value is None or any(_same(value, allowed) for allowed in harmless):
            continue
        remedy = f"Leave it out or send {_shown(harmless)}." if harmless else "Leave it out."
        raise ApiError(
            f"{prefix}{name} is not supported by this server. {_INSTEAD.get(name, remedy)}",
            param=prefix + name,
            code="unsupported_parameter",
        )


def _same(value: object, allowed: object) -> bool:
    # In Python true equals 1; in JSON it does not.
    return value == allowed and isinstance(value, bool) == isinstance(allowed, bool)


def _shown(values: tuple[object, ...]) -> str:
    return " or ".join(repr(value).replace("'", '"') for value in values)
