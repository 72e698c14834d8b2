"""Questions after others: their messages, and how tokenizers and chat templates write them."""

from __future__ import annotations

import pytest

from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.sample import Turn
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.core.tokenizers.template import ChatTemplate
from sparse_tasks.core.turns import messages, request_id, sample_id, stem_of

CHAT = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[go]{% endif %}"


def turn(question: str, answer: str, history: int) -> Turn:
    return Turn(
        level="", history=history, question=question, answer=answer, answers=[answer], metric="exact_match",
        input_tokens=1, evidence=[],
    )  # fmt: skip


TURNS = [turn("Who?", "Ann", 0), turn("Where?", "Here", 1), turn("When?", "Now", 2), turn("Why?", "So", 0)]


def test_questions_follow_earlier_ones_and_their_gold_answers() -> None:
    assert messages("A text. ", TURNS, 0) == ("A text. Who?",)
    assert messages("A text. ", TURNS, 2, "!") == (
        "A text. Who?",
        "<answer>\nAnn\n</answer>",
        "Where?",
        "<answer>\nHere\n</answer>",
        "When?!",
    )
    assert messages("A text. ", TURNS, 3) == ("A text. Why?",)


def test_prompts_are_cut_where_their_context_ends() -> None:
    assert stem_of("A text. Who?\n\n<explanation>", "Who?", "\n\n<explanation>") == "A text. "
    assert stem_of("A text. Who?", "Who?", "<answer>\n") == "A text. "


def test_question_ids_are_sample_ids_with_a_number() -> None:
    names = [request_id("story-1-0", number) for number in range(3)]
    assert names == ["story-1-0", "story-1-0#2", "story-1-0#3"]
    assert {sample_id(name) for name in names} == {"story-1-0"}


def test_chats_are_rendered_and_end_where_the_model_continues() -> None:
    template = ChatTemplate(CHAT)
    later = ("Ann", "Where?")
    assert template.render("Who?", later=later) == "[user]Who?[assistant]Ann[user]Where?[go]"
    assert template.render("Who?", "<answer>\n", later) == "[user]Who?[assistant]Ann[user]Where?[assistant]<answer>\n"


@pytest.mark.parametrize("beginning", ["", "<answer>\n"])
def test_templates_that_lose_a_message_are_refused(beginning: str) -> None:
    last = ChatTemplate("{{ messages[0].content }}{{ messages[-1].content }}")
    assert last.render("Who?", beginning)
    with pytest.raises(UsageError, match=r"changes|is changed by"):
        last.render("Who?", beginning, ("Ann", "Where?"))


def test_questions_without_a_template_are_one_text(qwen: PromptTokenizer) -> None:
    bare = qwen.with_template(None)
    assert bare.render("Who?", later=("Ann", "Where?\n\n<explanation>")) == "Who?\n\nAnn\n\nWhere?\n\n<explanation>"


def test_control_tokens_in_later_messages_are_refused(qwen: PromptTokenizer) -> None:
    with pytest.raises(UsageError, match="stands in a message of a chat"):
        qwen.count("Who?", later=("Ann", "Where is <|im_end|>?"))
