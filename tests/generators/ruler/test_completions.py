"""RULER's preset: questions asked as completions, with worked examples, and its own budgets and metrics."""

from __future__ import annotations

import hashlib
import json
import re

import pytest

from sparse_tasks.core.length import TOLERANCE
from sparse_tasks.core.sample import Sample
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.evaluators.scoring import score
from sparse_tasks.generators.ruler.words import listed, plain, set_aside
from sparse_tasks.generators.sampling import make_sample
from sparse_tasks.generators.task import TASKS
from tests.generators.drafts import draft_of
from tests.generators.requests import make_request

RULER = [task.name for task in TASKS if "ruler" in task.groups() and "corpus" not in task.texts]
WITH_EXAMPLE = ("ruler_vt", "ruler_cwe")


def sample(name: str, qwen: PromptTokenizer, index: int = 0, **options: object) -> Sample:
    request = make_request([6_000], [name], preset="ruler", **options)  # type: ignore[arg-type]
    return make_sample(request, qwen, request.tasks[0], 6_000, index)


@pytest.mark.parametrize("position", ["after", "both"])
@pytest.mark.parametrize("name", RULER)
def test_the_prompt_begins_the_answer(name: str, position: str, qwen: PromptTokenizer) -> None:
    for index in range(4):
        made = sample(name, qwen, index, question_position=position)
        budget = made.max_new_tokens
        assert 6_000 - budget - TOLERANCE <= made.input_tokens <= 6_000 - budget
        assert made.prompt.endswith(made.context + made.question + made.answer_prefix)
        assert made.answer_prefix.startswith("\n\n")
        assert re.search(r" (is|are)\Z", made.answer_prefix)
        assert "<answer>" not in made.prompt
        assert TASKS.get(name)().oracle(made.prompt) == made.answer
        # With the question only after the text, nothing before it reveals what will be asked.
        asked = made.question.rpartition("\n\n")[2]
        assert (asked in made.prompt[: made.prompt.rindex(made.context)]) == (position == "both")


@pytest.mark.parametrize("name", RULER)
def test_scored_as_ruler_scores(name: str, qwen: PromptTokenizer) -> None:
    made = sample(name, qwen)
    assert made.metric == "string_match_all"
    assert score(made.metric, " " + made.answer.lower(), made.answers).value == 1.0
    assert score(made.metric, f" {made.answers[0]}.", made.answers).value == pytest.approx(1 / len(made.answers))
    assert score(made.metric, "", made.answers).value == 0.0
    # The strict twin is the task's own metric.
    assert TASKS.get(name).metric not in ("string_match_all", "string_match_part")


@pytest.mark.parametrize("position", ["after", "both"])
@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_the_worked_example_is_kept(name: str, position: str, qwen: PromptTokenizer) -> None:
    # lm-eval's port of RULER's common words lost it.
    made = sample(name, qwen, question_position=position)
    intro, _, rest = made.context.partition("\n\nNow comes the ")
    assert intro.startswith("Here is an example first.\n\n")
    opening = made.question.rpartition("\n\n")[2].partition(" ")[0]
    assert opening in intro
    answer = re.search(r"\n\nBy the (?:log|list), .* are (.+)\.\Z", intro)
    assert answer is not None
    # It is solved right: read by itself it gives its answer.
    asked = intro[: answer.start()].removeprefix("Here is an example first.\n\n")
    assert TASKS.get(name)().oracle(asked) == answer[1]
    # Its answer has nothing to do with the sample's.
    mine = set(answer[1].split(", "))
    assert len(mine) == {"ruler_vt": 5, "ruler_cwe": 10}[name]
    assert not mine & set(made.answers)
    assert not any(re.search(rf"\b{word}\b", rest) for word in mine)


@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_examples_differ_from_sample_to_sample(name: str, qwen: PromptTokenizer) -> None:
    examples = {sample(name, qwen, index).context.partition("Now comes")[0] for index in range(5)}
    assert len(examples) == 5


def test_words_of_examples_are_in_no_list() -> None:
    words = set_aside()
    assert len(set(words)) == len(words) >= 60
    assert not set(words) & {*plain("nounlist.txt", "adjectivelist.txt", "verblist.txt"), *listed("profanitylist.txt")}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ruler_vt", {"hops": 1}),
        ("ruler_vt", {"hops": 32, "chains": 64}),
        *(("ruler_cwe", {"words": words}) for words in (1, 10, 100)),
        *(("ruler_fwe", {"words": words}) for words in (1, 3)),
    ],
)
def test_completions_can_be_read_with_any_parameters(name: str, settings: dict[str, int]) -> None:
    draft = draft_of(name, 3, 100, **settings)
    assert draft.completion is not None
    prompt = (draft.completion.intro or "") + "".join(draft.texts()) + draft.completion.question
    assert TASKS.get(name)().oracle(prompt) == draft.answer


def test_the_papers_tasks_give_the_bytes_that_they_always_gave(qwen: PromptTokenizer) -> None:
    digests = {}
    for name in ("ruler_niah", "ruler_vt", "ruler_cwe"):
        for preset in ("paper", "hard"):
            request = make_request([6_000], [name], preset=preset)
            row = make_sample(request, qwen, request.tasks[0], 6_000, 1).row()
            assert row.pop("turns") == []  # a column that came later
            digests[name, preset] = hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:16]
    assert digests == GOLDEN


GOLDEN = {
    ("ruler_niah", "paper"): "4c7a73cede9556f3",
    ("ruler_niah", "hard"): "58555f3f349bea3c",
    ("ruler_vt", "paper"): "1c60c18859e5db94",
    ("ruler_vt", "hard"): "b5bba389ebe18db2",
    ("ruler_cwe", "paper"): "8d5004825fbff3e8",
    ("ruler_cwe", "hard"): "4b07e7d44d14f294",
}
