"""What the three tasks share: the frame of the prompt, and the whole way to a sample."""

from __future__ import annotations

import pytest

from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.generators.request import make_request
from sparse_tasks.generators.sampling import make_sample
from tests.generators.story.drafts import context_of, draft_of, prompt_of, task_of

RULER = ("ruler_niah", "ruler_vt", "ruler_cwe")


@pytest.mark.parametrize("name", RULER)
def test_question_after_the_context_leaves_nothing_before_it(name: str, qwen: PromptTokenizer) -> None:
    request = make_request([4_096], [name], question_position="after")
    for index in range(2):
        sample = make_sample(request, qwen, request.tasks[0], 4_096, index)
        assert sample.prompt == sample.context + sample.question + sample.answer_prefix
        assert sample.prompt.startswith("Below is a ")
        assert sample.prompt.count("<answer>") == 1
        assert request.tasks[0].oracle(sample.prompt) == sample.answer


@pytest.mark.parametrize("name", RULER)
def test_question_before_and_after_says_the_same(name: str) -> None:
    draft = draft_of(name, "frame", 40)
    asked = draft.preview.partition("\n\n")[2].strip()
    assert draft.question.endswith(asked)
    assert draft.preview.startswith("You will read a ")
    assert draft.preview.endswith("\n\n")


@pytest.mark.parametrize("name", RULER)
@pytest.mark.parametrize("size", ["smallest", 40, 400])
def test_passages_are_lines(name: str, size: int | str) -> None:
    draft = draft_of(name, "lines", task_of(name).smallest() if size == "smallest" else int(size))
    assert draft.intro.endswith("\n\n")
    assert all(text == text.strip() + "\n" for text in draft.texts())
    assert "\n\n" not in context_of(draft).removeprefix(draft.intro)
    assert task_of(name).oracle(prompt_of(draft)) == draft.answer


@pytest.mark.parametrize("name", RULER)
def test_gold_stands_anywhere_at_exact_length_too(name: str, qwen: PromptTokenizer) -> None:
    # What the fitter adds must not push the evidence to one side.
    request = make_request([4_096], [name])
    means = []
    for index in range(24):
        sample = make_sample(request, qwen, request.tasks[0], 4_096, index)
        means += [span.depth for span in sample.evidence]
    assert 0.43 < sum(means) / len(means) < 0.57
    assert min(means) < 0.08
    assert max(means) > 0.92
