"""What holds for every reasoning task: its answer cannot be guessed, and fits into its budget."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.evaluators.scoring import score
from sparse_tasks.generators.sampling import make_sample
from sparse_tasks.generators.task import TASKS
from tests.cli.program import ROOT
from tests.generators.drafts import draft_of, task_of
from tests.generators.requests import make_request

NAMES = [name for name in TASKS.names() if name.startswith("reason_")]
SAMPLES = 100


@pytest.mark.parametrize("name", NAMES)
def test_no_share_of_an_answer_is_won_without_the_context(name: str) -> None:
    # Of the smallest size, where there is least to choose from. Lines count up to the first mistake, so whoever guesses
    # has to guess the first one.
    size = task_of(name).smallest()
    drafts = [draft_of(name, f"guess {i}", size) for i in range(SAMPLES)]
    often = Counter(draft.answers[0] for draft in drafts).most_common(1)[0][0]
    guesses = {
        "another sample's answer": [draft.answer for draft in [*drafts[1:], drafts[0]]],
        "the first line seen most often": [often] * SAMPLES,
        "the question": [draft.question for draft in drafts],
    }
    for guess, texts in guesses.items():
        values = [
            score("prefix_fraction", f"<answer>{text}</answer>", draft.answers).value
            for text, draft in zip(texts, drafts, strict=True)
        ]
        assert sum(values) / SAMPLES < 0.01, guess


@pytest.mark.parametrize("settings", [{}, {"steps": 300}])
@pytest.mark.parametrize("name", NAMES)
def test_the_gold_answer_fits_into_the_budget(name: str, settings: dict[str, int], qwen: PromptTokenizer) -> None:
    task = task_of(name, **settings)
    draft = draft_of(name, "budget", 3_000, **settings)
    assert len(draft.answers) == task.settings()["steps"]
    assert len(qwen.ids(draft.answer)) + 512 <= task.budget()
    assert task.budget() == 512 + task.settings()["steps"] * (task_of(name, steps=3).budget() - 512) // 3


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_line_ends_the_score_wherever_it_stands(name: str) -> None:
    draft = draft_of(name, "wrong", task_of(name).smallest() + 5)
    for place in range(len(draft.answers)):
        for wrong in ("Nowhere: 1", draft.answers[place - 1], draft.answers[place][:-1]):
            lines = [*draft.answers[:place], wrong, *draft.answers[place + 1 :]]
            text = "<answer>" + "\n".join(lines) + "</answer>"
            one = score("prefix_fraction", text, draft.answers, question=draft.question)
            assert one.parsed or place == 0  # a first line that is cut off may look like a heading
            assert one.value == place / len(draft.answers)


@pytest.mark.parametrize("name", NAMES)
def test_the_documentation_shows_what_generate_makes(name: str, qwen: PromptTokenizer) -> None:
    """``sparse-tasks generate --length 4k --task NAME``, index 0."""
    request = make_request(["4k"], [name])
    answers = make_sample(request, qwen, request.tasks[0], 4096, 0).answers
    section = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8").partition(f"### `{name}`\n")[2]
    assert re.findall(r"^```\n(.*?)^```$", section, re.M | re.S)[0].splitlines() == answers[:6]
