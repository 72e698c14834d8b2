"""Chat templates: rendered as in transformers, independent of the date, and sandboxed."""

from __future__ import annotations

import hashlib
from datetime import datetime

import pytest

from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.tokenizers import template as module
from sparse_tasks.core.tokenizers.template import ChatTemplate


def rendered(source: str) -> str:
    """What a template writes before a message."""
    return ChatTemplate(source + "{{ messages[0].content }}").render("[x]").removesuffix("[x]")


def test_the_prompt_is_one_user_message_and_the_model_is_to_answer() -> None:
    source = "{{ messages | length }} {{ messages[0].role }}: {{ messages[0]['content'] }}|{{ add_generation_prompt }}"
    assert ChatTemplate(source).render("How many?") == "1 user: How many?|True"


def test_the_prompt_is_data_and_never_a_template() -> None:
    prompt = "{{ 7 * 7 }} {% raw %} {# gone #} <b>&amp;</b> 100%"
    assert ChatTemplate("{{ messages[0].content }}").render(prompt) == prompt


def test_blocks_are_trimmed_as_transformers_trims_them() -> None:
    source = "  {% for message in messages %}\n{{ message.content }}\n  {% endfor %}\nend\n"
    assert ChatTemplate(source).render("x") == "x\nend"


def test_tools_and_documents_are_defined_and_none() -> None:
    # As in transformers: templates ask "tools is not none" before they print a list of tools.
    source = "{% for name in [tools, documents] %}{{ name is defined }} {{ name is none }} {% endfor %}"
    assert rendered(source) == "True True True True "


def test_loops_can_break_and_generation_blocks_print_their_content() -> None:
    source = "{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{% generation %}{{ i }}{% endgeneration %}"
    assert rendered(source + "{% endfor %}") == "012"


CHAT = (
    "{% for message in messages %}[{{ message.role }}]{{ message.content | trim }}[end]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def test_a_begun_answer_ends_the_text_in_the_models_turn() -> None:
    assert ChatTemplate(CHAT).render("Who?", "<answer>\n") == "[user]Who?[end][assistant]<answer>\n"
    # Also where the prompt holds the same.
    assert ChatTemplate(CHAT).render("<answer>\n0", "<answer>\n") == "[user]<answer>\n0[end][assistant]<answer>\n"


def test_template_text_before_an_answer_precedes_a_begun_one() -> None:
    thinking = CHAT.replace("[{{ message.role }}]", "[{{ message.role }}]{% if loop.last %}<think></think>{% endif %}")
    thinking = thinking.replace("[assistant]", "[assistant]<think>")  # inside which no answer may begin
    assert ChatTemplate(thinking).render("Who?", "<answer>\n").endswith("[assistant]<think></think><answer>\n")


@pytest.mark.parametrize("source", ["{{ messages[0].content }}", CHAT.replace("| trim", "| upper"), "<answer>\n0"])
def test_a_template_that_changes_an_answer_begins_none(source: str) -> None:
    with pytest.raises(UsageError, match=r"begin-answer: .* is changed by this chat template"):
        ChatTemplate(source).render("Who?", "<answer>\n")


PARTS = "{% for part in messages[0].content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}!"


@pytest.mark.parametrize(
    "source",
    [
        PARTS,  # which writes nothing of a text, and says nothing
        "{{ messages[0].content[0].text }}!",
        "{{ messages[0]['content'] | map(attribute='text') | join('') }}!",
        "{% if messages[0].content is string %}{{ raise_exception('parts alone') }}{% endif %}" + PARTS,
        "{% if messages[0].content is not string %}{{ raise_exception('texts alone') }}{% endif %}"
        "{{ messages[0].content }}!",
        "{% if messages[0].content is string %}{{ messages[0].content }}!{% else %}" + PARTS + "{% endif %}",
    ],
)
@pytest.mark.parametrize("prompt", ["How many?", "a\n\nb ", "How"])
def test_templates_get_the_form_of_messages_that_they_support(source: str, prompt: str) -> None:
    assert ChatTemplate(source).render(prompt) == prompt + "!"


def test_begun_answers_are_parts_if_messages_are() -> None:
    source = "{% for message in messages %}[{{ message.role }}]{{ message.content[0].text }}{% endfor %}"
    assert ChatTemplate(source).render("Who?", "<answer>\n") == "[user]Who?[assistant]<answer>\n"


@pytest.mark.parametrize(
    "source",
    [
        "[user][assistant]",
        "{{ messages[0].text }}",
        "{{ messages[0].content | length }}",
        "{{ messages[0].content[:5] }}",
        "{{ messages[0].content | upper }}",
        "{{ messages[0].content | tojson }}",
        "{% for part in messages[0].content %}{% if part.type == 'image' %}{{ part.text }}{% endif %}{% endfor %}",
    ],
)
def test_a_template_that_changes_the_prompt_is_refused(source: str) -> None:
    with pytest.raises(UsageError, match=r"chat-template: .* changes the prompt; name another"):
        ChatTemplate(source).render("A prompt\nof two lines\n")


def test_white_space_at_a_prompts_ends_may_be_stripped() -> None:
    assert ChatTemplate("[{{ messages[0].content | trim }}]").render(" a b\n") == "[a b]"


def test_json_keeps_letters_and_order() -> None:
    assert rendered("{{ {'b': 'é<', 'a': 1} | tojson }}") == '{"b": "é<", "a": 1}'
    assert rendered("{{ [1] | tojson(indent=2) }}") == "[\n  1\n]"
    assert rendered("{{ {'b': [2], 'a': 'é'} | tojson(True, None, (',', ':'), True) }}") == '{"a":"\\u00e9","b":[2]}'


def test_the_date_is_the_same_on_any_day(monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime(2031, 7, 9)

    monkeypatch.setattr(module, "datetime", Later)
    assert rendered("{{ strftime_now('%d %b %Y, %H:%M') }}") == "01 Jan 2025, 00:00"


@pytest.mark.parametrize("source", ["{% for", "{% nonsense %}", "{{ 'a' | no_such_filter }}"])
def test_a_template_that_does_not_parse_is_bad_input(source: str) -> None:
    with pytest.raises(UsageError, match=r"chat-template: .* does not parse: ") as caught:
        ChatTemplate(source)
    assert caught.value.value == source


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('Only two messages are supported') }}", "Only two messages are supported"),
        ("{{ messages[0].content.nothing.at.all }}", "has no attribute 'nothing'"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{% include 'another' %}", "no loader"),
    ],
)
def test_a_template_that_raises_refuses_the_message(source: str, reason: str) -> None:
    with pytest.raises(UsageError, match="refuses a single user message") as caught:
        ChatTemplate(source).render("x")
    assert caught.value.field == "chat-template"
    assert reason in caught.value.remedy


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ ('' | attr('__class__')).__mro__ }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(content='') }}",
        "{% set messages[0].content = 'x' %}",
        "{{ range(999999999) | list }}",
    ],
)
def test_the_sandbox_prevents_access_and_changes(source: str) -> None:
    with pytest.raises(UsageError):
        ChatTemplate(source).render("x")


def test_a_long_template_is_not_printed_whole_in_errors() -> None:
    with pytest.raises(UsageError) as caught:
        ChatTemplate("{{ 1 / 0 }}" + "x" * 10_000).render("x")
    assert len(str(caught.value)) < 200


def test_the_hash_covers_text_and_special_tokens() -> None:
    hashes = {
        ChatTemplate(source, special).sha256
        for source in ("{{ bos_token }}a", "{{ bos_token }}b")
        for special in ({}, {"bos_token": "<s>"}, {"bos_token": "<t>"}, {"eos_token": "<s>"})
    }
    assert len(hashes) == 8
    one, other = {"bos_token": "<s>", "eos_token": "</s>"}, {"eos_token": "</s>", "bos_token": "<s>"}
    assert ChatTemplate("a", one).sha256 == ChatTemplate("a", other).sha256
    # Tokens that templates did not use to see change no hash of one that does not name them.
    assert ChatTemplate("a", one | {"cls_token": "[CLS]"}).sha256 == ChatTemplate("a", one).sha256
    assert ChatTemplate("{{ cls_token }}", {"cls_token": "[CLS]"}).sha256 != ChatTemplate("{{ cls_token }}", {}).sha256
    # Data sets name it: another value for the same template would make every one of them look changed.
    assert ChatTemplate("a", {}).sha256 == hashlib.sha256(b'["a", {}]').hexdigest()
