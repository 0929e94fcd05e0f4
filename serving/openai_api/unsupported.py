"""Request fields that clients know and this server does not do: refused by name, never ignored.

A value that asks for nothing (null, or one listed here, the API's own default) is fine. Fields that
are in no table are unknown and pass: clients may send what a later version of the API brings.
"""

from collections.abc import Mapping

from serving.openai_api.errors import ApiError

Table = Mapping[str, tuple[object, ...]]  # field -> values that ask for nothing

_GENERATION: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    # Extras of other servers that change the answer.
    "min_p": (0,),
    "min_tokens": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "allowed_token_ids": ([],),
    "prompt_logprobs": (0,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "echo": (False,),
    "best_of": (1,),
}

CHAT: Table = {
    **_GENERATION,
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "moderation": (),
    "prediction": (),
    "reasoning_effort": (),
    "web_search_options": (),
    "verbosity": ("medium",),
    "service_tier": ("auto", "default"),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
}

COMPLETIONS: Table = {
    **_GENERATION,
    "logprobs": (),
    "suffix": ("",),
    "response_format": ({"type": "text"},),
}

MESSAGE: Table = {
    "name": (),
    "audio": (),
    "refusal": ("",),
    "tool_calls": ([],),
    "tool_call_id": (),
    "function_call": (),
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
            f"{prefix}{name} is not supported by this server. {remedy}",
            param=prefix + name,
            code="unsupported_parameter",
        )


def _same(value: object, allowed: object) -> bool:
    # In Python true equals 1; in JSON it does not.
    return value == allowed and isinstance(value, bool) == isinstance(allowed, bool)


def _shown(values: tuple[object, ...]) -> str:
    return " or ".join(repr(value).replace("'", '"') for value in values)
