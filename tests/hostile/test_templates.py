"""Templates that would never end, or write without an end, are stopped by what they have done."""

import pytest

from everloop import template_sandbox
from everloop.chat import CHAT_TEMPLATE, ChatTemplate
from everloop.errors import ArtifactError, DataError, TemplateLimitError
from everloop.records import Message
from everloop.template_sandbox import MAX_TEXT, MAX_TICKS, MAX_WRITTEN

QUESTION = (Message(role="user", content="Hi"),)

ENDLESS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% endfor %}{% endfor %}",
    "loops with a condition": "{% for a in range(99999) %}{% for b in range(99999) if false %}"
    "{% endfor %}{% endfor %}",
    "doubling macros": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}"
    "{% endmacro %}{{ m(60) }}",
    "recursive loop": "{% for a in [range(99), range(99)] recursive %}{% if loop.depth < 40 %}"
    "{{ loop([[1], [1], [1]]) }}{% endif %}{% endfor %}",
    "filters": "{% for a in range(99999) %}{% set x = range(99999) | list | length %}{% endfor %}",
    "called block": "{% macro m() %}{% for a in range(99999) %}{{ caller() }}{% endfor %}"
    "{% endmacro %}{% call m() %}{% for a in range(9) %}{% endfor %}{% endcall %}",
    "comparisons": "{% set big = range(99999) | list %}"
    "{% for a in range(99999) %}{% if -1 in big %}{% endif %}{% endfor %}",
}
LARGE = {
    "repeated text": "{{ 'x' * 10 ** 9 }}",
    "repeated list": "{{ [1] * 10 ** 9 }}",
    "doubled text": "{% set n = namespace(x='x' * 99) %}{% for a in range(60) %}"
    "{% set n.x = n.x + n.x %}{% endfor %}",
    "doubled by ~": "{% set n = namespace(x='x' * 99) %}{% for a in range(60) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubled lists": "{% set n = namespace(x=[1]) %}{% for a in range(60) %}"
    "{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "doubled lists as JSON": "{% set n = namespace(x=[1]) %}{% for a in range(60) %}"
    "{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | tojson }}",
    "power": "{{ 2 ** (10 ** 9) }}",
    "power of a negative": "{{ 2 ** -(10 ** 9) }}",
    "squares": "{% set n = namespace(x=3) %}{% for a in range(60) %}"
    "{% set n.x = n.x * n.x %}{% endfor %}",
    "width of %": "{{ '%999999999d' % 1 }}",
    "width of % from outside": "{{ '%*d' % (999999999, 1) }}",
    "width of format": "{{ '{:999999999}'.format(1) }}",
    "width of format from outside": "{{ '{:{}}'.format(1, 999999999) }}",
    "fields of format": "{{ ('{0}' * 9999).format('x' * 9999) }}",
    "replace": "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
    "replace between": "{{ ('a' * 99999) | replace('', 'b' * 99999) }}",
    "join": "{{ range(99999) | join('b' * 99999) }}",
    "method join": "{{ ('b' * 99999).join('a' * 99999) }}",
    "indent": "{{ 'x' | indent(999999999, first=true) }}",
    "indented JSON": "{{ [1] | tojson(indent=999999999) }}",
    "text of a loop": "{% for a in range(99999) %}" + "x" * 9999 + "{% endfor %}",
    "text of a macro": "{% macro m(t) %}{% for a in range(999) %}{{ t }}{% endfor %}{% endmacro %}"
    "{% for b in range(99) %}{% set t = m('x' * 99999) %}{% endfor %}",
    "block": "{% set t = 'x' * 99999 %}{% for b in range(999) %}"
    "{% set u %}{% for a in range(99) %}{{ t }}{% endfor %}{% endset %}{% endfor %}",
}
FAILING = {
    "division": "{{ 1 / 0 }}",
    "overflow": "{{ 2.0 ** 9999 }}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "index": "{{ messages[7].content.x.y }}",
    "range": "{{ range(10 ** 9) | list }}",
    "center": "{{ 'x'.center(10 ** 9) }}",
    "zfill": "{{ 'x'.zfill(10 ** 9) }}",
    "to_bytes": "{{ (1).to_bytes(10 ** 9, 'big') }}",
    "time": "{{ strftime_now('%9' * 9999) }}",
    "json of itself": "{{ self | tojson }}",
}
NO_TEMPLATE = {
    "filter": "{{ 'x' | center(999999999) }}",
    "batch": "{{ [1] | batch(999999999, 0) }}",
    "parentheses": "{{ " + "(" * 100_000 + ")" * 100_000 + " }}",
    "length": "x" * (template_sandbox.MAX_SOURCE + 1),
    "syntax": "{% for %}",
}


def _spent(template: ChatTemplate) -> template_sandbox._Spent:
    return template._sandbox.spent


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS.keys())
def test_endless_template_is_stopped(source):
    template = ChatTemplate(source)
    with pytest.raises(TemplateLimitError, match="was stopped"):
        template.render(QUESTION)
    assert _spent(template).ticks <= MAX_TICKS + 1


@pytest.mark.parametrize("source", LARGE.values(), ids=LARGE.keys())
def test_text_is_measured_before_it_is_made(source):
    template = ChatTemplate(source)
    with pytest.raises(TemplateLimitError, match="was stopped"):
        template.render(QUESTION)
    assert _spent(template).ticks <= MAX_TICKS + 1


@pytest.mark.parametrize("source", FAILING.values(), ids=FAILING.keys())
def test_whatever_a_template_raises_is_a_refusal(source):
    with pytest.raises(DataError, match="chat template"):
        ChatTemplate(source).render(QUESTION)


@pytest.mark.parametrize("source", NO_TEMPLATE.values(), ids=NO_TEMPLATE.keys())
def test_what_is_no_template_is_refused_with_the_reason(source):
    with pytest.raises(ArtifactError, match=r"does not compile: \w"):
        ChatTemplate(source)


@pytest.mark.parametrize(
    "source",
    [ENDLESS["nested loops"], LARGE["repeated text"], "{{ 1 / 0 }}", "{{ raise_exception('no') }}"],
)
def test_import_refuses_a_template_that_cannot_be_used(source):
    with pytest.raises(ArtifactError, match="chat template cannot be used"):
        ChatTemplate(source).check()


def test_import_takes_a_template_that_refuses_some_conversations():
    ChatTemplate(CHAT_TEMPLATE).check()
    ChatTemplate("{% if tools %}{{ raise_exception('no tools') }}{% endif %}x").check()
    ChatTemplate("{{ tools[0].function.name }}{{ tools | length }}").check()


def test_every_rendering_counts_for_itself(monkeypatch):
    monkeypatch.setattr(template_sandbox, "MAX_TICKS", 2000)
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}")
    many = QUESTION * 1500
    for _ in range(3):
        assert template.render(many) == "Hi" * len(many)
    assert 1500 <= _spent(template).ticks <= 2000


def test_a_text_made_of_parts_is_bounded_in_all():
    text = "x" * 10_000
    template = ChatTemplate(
        "{% for m in messages %}{% for n in messages %}{{ m.content }}{% endfor %}{% endfor %}"
    )
    with pytest.raises(TemplateLimitError):
        template.render([Message(role="user", content=text)] * 300)
    assert _spent(template).characters <= MAX_WRITTEN + MAX_TEXT


def test_client_cannot_make_a_good_template_endless():
    """Rounds follow the messages, and so does what is counted: too many are refused in words."""
    with pytest.raises(TemplateLimitError, match="Send fewer messages"):
        ChatTemplate(CHAT_TEMPLATE).render(QUESTION * (MAX_TICKS + 1))
