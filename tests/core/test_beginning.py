"""The beginning of an answer: where it stands, with and without a chat template."""

from __future__ import annotations

import pytest

from sparse_tasks.core.beginning import begun, unbegun

IN_TAGS = ["", "\n\n<explanation>", "<answer>\n", "\n\n<answer>\n"]


@pytest.mark.parametrize("prefix", IN_TAGS)
@pytest.mark.parametrize("inside", [True, False])
def test_an_answer_in_tags_always_begins_with_the_tag(prefix: str, inside: bool) -> None:
    prompt = "Who?" + (prefix if inside else "")
    assert begun(prompt, prefix, chat=True) == ("Who?", "<answer>\n")
    assert begun(prompt, prefix, chat=False) == ("Who?\n\n<answer>\n", "")


def test_a_completion_begins_with_its_prefix() -> None:
    prompt, prefix = "Who?\n\nThe number is", "\n\nThe number is"
    assert begun(prompt, prefix, chat=True) == ("Who?", "The number is")
    assert begun(prompt, prefix, chat=False) == (prompt, "")  # it does already


def test_the_beginning_of_a_data_set_can_be_removed() -> None:
    assert unbegun("Who?", "<answer>\n", chat=True) == "Who?"
    assert unbegun("Who?", "<answer>\n", chat=False) == "Who?\n\n<explanation>"
    assert unbegun("Who?\n\n<answer>\n", "\n\n<answer>\n", chat=False) == "Who?\n\n<explanation>"
    assert unbegun("Who?\n\n<answer>\n", "\n\n<answer>\n", chat=True) == "Who?"
