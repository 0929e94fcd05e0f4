import json

import pytest

from everloop.records import Message
from training.reading.chat_formats import Exchange, MalformedRowError, read_exchange


def turns(*pairs: tuple[str, str]) -> tuple[Message, ...]:
    return tuple(Message.model_validate({"role": role, "content": text}) for role, text in pairs)


def dicts(*pairs: tuple[str, str], **more: object) -> list[dict[str, object]]:
    return [{"role": role, "content": text, **more} for role, text in pairs]


ASKED = ("user", "2 + 2?")
RIGHT, WRONG = ("assistant", "4"), ("assistant", "5")
CHAT = Exchange(turns(ASKED, RIGHT))
PREFERENCE = Exchange(turns(ASKED), turns(RIGHT), turns(WRONG))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": dicts(ASKED, RIGHT)}, CHAT),
        ({"messages": [*dicts(ASKED), *dicts(RIGHT, weight=1)]}, CHAT),
        ({"messages": [*dicts(ASKED, RIGHT), *dicts(ASKED), *dicts(WRONG, weight=0)]}, CHAT),
        ({"messages": dicts(ASKED, WRONG), "label": False},
         Exchange(turns(ASKED, WRONG), label=False)),
        ({"prompt": "2 + 2?", "completion": "4"}, CHAT),
        ({"prompt": dicts(ASKED), "completion": dicts(RIGHT)}, CHAT),
        ({"prompt": "2 + 2?", "completion": "4", "label": 1},
         Exchange(turns(ASKED, RIGHT), label=True)),
        ({"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}, PREFERENCE),
        ({"prompt": dicts(ASKED), "chosen": dicts(RIGHT), "rejected": dicts(WRONG)}, PREFERENCE),
        ({"chosen": dicts(ASKED, RIGHT), "rejected": dicts(ASKED, WRONG)}, PREFERENCE),
        ({"chosen": "\n\nHuman: 2 + 2?\n\nAssistant: 4",
          "rejected": "\n\nHuman: 2 + 2?\n\nAssistant: 5"}, PREFERENCE),
        ({"input": {"messages": dicts(ASKED), "tools": []}, "preferred_output": dicts(RIGHT),
          "non_preferred_output": dicts(WRONG)}, PREFERENCE),
        ({"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]},
         CHAT),
        ({"instruction": "2 + 2?", "input": "", "output": "4"}, CHAT),
        ({"instruction": "Add", "input": "2 + 2", "output": "4"},
         Exchange(turns(("user", "Add\n\n2 + 2"), RIGHT))),
        ({"text": "a text", "prompt": "alone"}, None),
    ],
)  # fmt: skip
def test_read_exchange_knows_the_form(row: dict[str, object], expected: Exchange | None) -> None:
    assert read_exchange(row) == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": []}, "no_messages"),
        ({"messages": "hi"}, "no_messages"),
        ({"messages": dicts(ASKED)}, "no_answer"),
        ({"messages": dicts(("robot", "hi"))}, "bad_message"),
        ({"messages": ["hi"]}, "bad_message"),
        ({"messages": [*dicts(ASKED), *dicts(RIGHT, weight=0)]}, "no_weighted_answer"),
        ({"messages": [*dicts(ASKED), *dicts(WRONG, weight=0), *dicts(ASKED, RIGHT)]},
         "weight_zero_inside"),
        ({"messages": dicts(ASKED, RIGHT), "label": "good"}, "bad_label"),
        ({"prompt": "", "chosen": dicts(ASKED), "rejected": dicts(ASKED)}, "no_answer"),
        ({"prompt": "2?", "chosen": "4", "rejected": "4"}, "no_preference"),
        ({"chosen": "4", "rejected": "5"}, "no_prompt"),
        ({"preferred_output": dicts(RIGHT)}, "no_messages"),
        ({"conversations": [{"from": "alien", "value": "hi"}]}, "bad_message"),
        ({"conversations": "hi"}, "no_messages"),
        ({"instruction": 3, "output": "4"}, "bad_message"),
        ({"prompt": "2?", "completions": ["4"], "labels": [True]}, "stepwise_supervision"),
    ],
)  # fmt: skip
def test_read_exchange_says_what_is_wrong(row: dict[str, object], reason: str) -> None:
    with pytest.raises(MalformedRowError, match=f"^{reason}$"):
        read_exchange(row)


def test_read_exchange_keeps_tool_calls() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
    row = {
        "messages": [
            *dicts(ASKED),
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "4"},
            *dicts(RIGHT),
        ]
    }
    exchange = read_exchange(row)
    assert exchange is not None
    assert exchange.messages[1].tool_calls is not None
    assert exchange.messages[1].tool_calls[0].function.name == "add"


def test_read_exchange_keeps_tools() -> None:
    tool = {"type": "function", "function": {"name": "add"}}
    rows: list[dict[str, object]] = [
        {"messages": dicts(ASKED, RIGHT), "tools": [tool]},
        {"messages": dicts(ASKED, RIGHT), "tools": json.dumps([tool])},
        {"input": {"messages": dicts(ASKED), "tools": [tool]}, "preferred_output": dicts(RIGHT),
         "non_preferred_output": dicts(WRONG)},
    ]  # fmt: skip
    for row in rows:
        exchange = read_exchange(row)
        assert exchange is not None
        assert exchange.tools == (tool,)
    for wrong in ("add", ["add"], 5):
        with pytest.raises(MalformedRowError, match="bad_tools"):
            read_exchange({"messages": dicts(ASKED, RIGHT), "tools": wrong})
    with pytest.raises(MalformedRowError, match="functions_instead_of_tools"):
        read_exchange({"messages": dicts(ASKED, RIGHT), "functions": [{"name": "add"}]})
