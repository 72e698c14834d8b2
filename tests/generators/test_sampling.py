"""A sample depends on all of its key and on nothing else; the shortest length that works is known beforehand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from sparse_tasks.core.errors import DataError, TooShortError, UsageError
from sparse_tasks.core.length import TOLERANCE
from sparse_tasks.core.sample import Sample
from sparse_tasks.core.tokenizers import PromptTokenizer, load_tokenizer, loading
from sparse_tasks.core.tokenizers.template import ChatTemplate
from sparse_tasks.generators import sampling
from sparse_tasks.generators.request import Request
from sparse_tasks.generators.sampling import check_lengths, make_sample
from sparse_tasks.generators.task import TASKS
from tests.generators.requests import make_request

# Those that need no corpus; of RULER's needles, one for each sort of haystack and one with several keys.
TASK_NAMES = [
    task.name
    for task in TASKS
    if "corpus" not in task.texts
    and not task.name.startswith(("ruler_niah_single_3", "ruler_niah_multikey_1", "ruler_niah_multikey_2"))
    and task.name != "ruler_niah_multivalue"
]


def sample(tokenizer: PromptTokenizer, name: str, length: int = 4_000, index: int = 0, **options: Any) -> Sample:
    request = make_request([length], [name], **options)
    return make_sample(request, tokenizer, request.tasks[0], length, index)


# --- the key ------------------------------------------------------------------------------------------------

BASE = {"length": 6_000, "index": 1, "seed": 42}
VARIATIONS: list[dict[str, Any]] = [
    {"index": 0},
    {"index": 2},
    {"seed": 43},
    {"seed": 43, "index": 0},
    {"seed": 41, "index": 2},
    {"length": 6_001},
    {"question_position": "after"},
    {"settings": {"story_multihop.hops": 2}},
    {"settings": {"story_multihop.distractors": 3}},
    {"depth": "0-0.99"},
    {"length_includes_output": True},
]


def test_every_part_of_the_key_changes_the_words(qwen: PromptTokenizer) -> None:
    samples = [sample(qwen, "story_multihop", **(BASE | variation)) for variation in ({}, *VARIATIONS)]
    assert len({one.context for one in samples}) == len(samples)
    assert len({one.id for one in samples}) == len(samples)
    assert len({one.id.rpartition("-")[2] for one in samples}) == len(samples)


def test_neighbours_share_almost_no_lines(qwen: PromptTokenizer) -> None:
    # Index 1 of seed 42 is not index 0 of seed 43, nor a shifted copy of it.
    one = sample(qwen, "story_multihop", 8_000, 1, seed=42)
    for other in (sample(qwen, "story_multihop", 8_000, 0, seed=43), sample(qwen, "story_multihop", 8_000, 0, seed=42)):
        lines, others = ({line for line in s.context.splitlines() if len(line) > 40} for s in (one, other))
        assert len(lines & others) < 0.05 * len(lines)


def test_tokenizer_and_template_are_part_of_the_key(qwen: PromptTokenizer, tokenizer_folders: dict[str, Path]) -> None:
    bare, other = qwen.with_template(None), qwen.with_template(ChatTemplate("{{ messages[0].content }}"))
    third = load_tokenizer(str(tokenizer_folders["byte_level"]))
    # Not only because other words fit: one that counts alike but is known to be another one gives other words, too.
    alike = PromptTokenizer(qwen.name, qwen.backend, "another hash", qwen.template)
    alike_template = qwen.with_template(ChatTemplate(f"{{# nothing #}}{qwen.template.source}" if qwen.template else ""))
    assert alike_template.render("x") == qwen.render("x")
    samples = [sample(one, "ruler_vt", 6_000) for one in (qwen, bare, other, third, alike, alike_template)]
    assert len({one.context for one in samples}) == 6
    assert len({one.id for one in samples}) == 6


def test_options_without_effect_change_nothing(qwen: PromptTokenizer) -> None:
    # Other tasks beside it, the number of samples, where the tokenizer lies, and how much the model may write.
    plain = sample(qwen, "ruler_vt", 4_000, 3)
    request = make_request([4_000, 9_000], samples=7, seed=42)
    task = next(task for task in request.tasks if task.name == "ruler_vt")
    assert make_sample(request, qwen, task, 4_000, 3) == plain
    renamed = PromptTokenizer("another name", qwen.backend, qwen.sha256, qwen.template)
    assert sample(renamed, "ruler_vt", 4_000, 3) == plain
    budgeted = sample(qwen, "ruler_vt", 4_000, 3, max_new_tokens=7)
    assert budgeted == structs.replace(plain, max_new_tokens=7)


# --- what a sample says -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASK_NAMES)
def test_the_id_contains_task_length_and_index(name: str, qwen: PromptTokenizer) -> None:
    request = make_request([7_000], [name])
    made = make_sample(request, qwen, request.tasks[0], 7_000, 12)
    assert re.fullmatch(rf"{name}-7000-00012-[0-9a-f]{{12}}", made.id)
    assert (made.task, made.length, made.index, made.seed) == (name, 7_000, 12, 42)


def test_parameters_depth_and_draws_are_recorded(qwen: PromptTokenizer) -> None:
    made = sample(qwen, "story_multihop", 6_000, depth="0.5", settings={"story_multihop.hops": 2})
    params = json.loads(made.params)
    assert params["hops"] == 2
    assert params["depth"] == "0.5"
    assert params["drawn"]["chapters"] >= 3
    assert made.params == json.dumps(params, ensure_ascii=False, sort_keys=True)


def test_a_bare_prompt_ends_in_the_answers_first_words(qwen: PromptTokenizer) -> None:
    bare = sample(qwen.with_template(None), "ruler_vt")
    assert bare.answer_prefix == "\n\n<explanation>"
    assert bare.prompt.endswith(bare.question + "\n\n<explanation>")
    templated = sample(qwen, "ruler_vt")
    assert templated.answer_prefix == ""
    assert templated.prompt.endswith(templated.question)


def test_a_question_may_have_another_metric_than_its_task(qwen: PromptTokenizer) -> None:
    metrics = {
        kind: sample(qwen, "story_aggregation", 6_000, settings={"story_aggregation.kind": kind}).metric
        for kind in ("spent", "kept")
    }
    assert metrics == {"spent": TASKS.get("story_aggregation").metric, "kept": "set_iou"}


def test_a_sample_whose_oracle_disagrees_never_leaves(qwen: PromptTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    request = make_request([4_000], ["ruler_vt"])
    monkeypatch.setattr(type(request.tasks[0]), "oracle", lambda self, prompt: "another answer")
    with pytest.raises(DataError, match=r"ruler_vt: the prompt says 'another answer', the stored answer is "):
        make_sample(request, qwen, request.tasks[0], 4_000, 0)


# --- the shortest length ------------------------------------------------------------------------------------


def shortest(request: Request, tokenizer: PromptTokenizer) -> int:
    with pytest.raises(UsageError) as caught:
        check_lengths(request, tokenizer)
    assert caught.value.field == "length"
    assert caught.value.value == request.lengths[0]
    reported = re.fullmatch(r"is too short for ([\w, ]+); the smallest that works is (\d+)", caught.value.remedy)
    assert reported, caught.value.remedy
    assert reported[1].split(", ") == [task.name for task in request.tasks]
    return int(reported[2])


def test_far_below_the_shortest_length_no_sample_exists(qwen: PromptTokenizer) -> None:
    for name in TASK_NAMES:
        named = shortest(make_request([16], [name], samples=3), qwen)
        request = make_request([named * 2 // 3], [name], samples=3)
        for index in range(3):
            with pytest.raises(TooShortError):
                make_sample(request, qwen, request.tasks[0], named * 2 // 3, index)


def works(request: Request, tokenizer: PromptTokenizer, length: int) -> bool:
    """Whether all samples can be made; each that can is exact."""
    exact = True
    for task in request.tasks:
        for index in range(request.samples):
            try:
                made = make_sample(request, tokenizer, task, length, index)
            except TooShortError:
                return False
            target = request.target(task, length)
            exact = exact and target - TOLERANCE <= made.input_tokens <= target
    assert exact
    return True


@pytest.mark.parametrize("options", [{}, {"length_includes_output": True}, {"question_position": "after"}])
@pytest.mark.parametrize("name", TASK_NAMES)
def test_the_length_named_works_and_the_next_smaller_does_not(
    name: str, options: dict[str, Any], qwen: PromptTokenizer
) -> None:
    named = shortest(make_request([16], [name], samples=3, **options), qwen)
    request = make_request([named], [name], samples=3, **options)
    check_lengths(request, qwen)
    assert works(request, qwen, named)
    # At the next smaller length samples may exist by luck, in which other things were drawn; it is refused nonetheless.
    assert shortest(make_request([named - 1], [name], samples=3, **options), qwen) == named


@pytest.mark.parametrize("sort", ["unigram", "bert", "llama"])
def test_the_length_named_works_with_other_tokenizers_too(sort: str, tokenizer_folders: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(str(tokenizer_folders[sort]))
    for name in ("story_multihop", "ruler_vt"):
        named = shortest(make_request([16], [name], samples=3), tokenizer)
        check_lengths(make_request([named], [name], samples=3), tokenizer)
        assert works(make_request([named], [name], samples=3), tokenizer, named)
        assert shortest(make_request([named - 1], [name], samples=3), tokenizer) == named


def test_for_several_tasks_the_length_named_works_for_all(qwen: PromptTokenizer) -> None:
    named = shortest(make_request([16], ["ruler"], samples=2), qwen)
    request = make_request([named], ["ruler"], samples=2)
    check_lengths(request, qwen)
    assert works(request, qwen, named)
    with pytest.raises(UsageError, match=f"the smallest that works is {named}"):
        check_lengths(make_request([named - 1], ["ruler"], samples=2), qwen)


def test_only_the_tasks_that_do_not_fit_are_named(qwen: PromptTokenizer) -> None:
    each = {name: shortest(make_request([16], [name], samples=2), qwen) for name in ("ruler_vt", "story_retrieval")}
    low, high = sorted(each, key=lambda name: each[name])
    with pytest.raises(UsageError, match=f"is too short for {high}; the smallest that works is {each[high]}"):
        check_lengths(make_request([each[low]], [low, high], samples=2), qwen)


def test_of_several_lengths_the_first_that_is_too_short_is_named(qwen: PromptTokenizer) -> None:
    with pytest.raises(UsageError, match=r"^length: 64 is too short for ruler_vt") as caught:
        check_lengths(make_request([64, 128, "64k"], ["ruler_vt"], samples=1), qwen)
    assert caught.value.value == 64


@pytest.mark.parametrize("template", ["auto", "none"])
def test_a_refusal_counts_the_same_without_the_whole_tokenizer(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_tokenizer(chat_template=template)
    assert whole.backend is not None
    monkeypatch.setattr(loading, "_qwen25", lambda: pytest.fail("the whole tokenizer was loaded"))
    for name in ("story_retrieval", "story_filtering", "ruler_niah_single_2", "copy_nth", "code_calls"):
        request = make_request([16], [name], samples=1)
        assert shortest(request, load_tokenizer(chat_template=template)) == shortest(request, whole)


def test_a_refusal_that_takes_many_counts_loads_the_whole_tokenizer() -> None:
    fresh = load_tokenizer()
    assert shortest(make_request([16], ["ruler_vt"], samples=10), fresh)
    assert "backend" in vars(fresh)


def test_lengths_far_above_the_smallest_prompt_are_not_tried(
    qwen: PromptTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A request for a million samples has to be checked in no time.
    composed: list[int] = []
    real = sampling.smallest_prompt
    monkeypatch.setattr(sampling, "smallest_prompt", lambda *args: (composed.append(1), real(*args))[1])
    monkeypatch.setattr(sampling, "fit", lambda *args: pytest.fail("a sample was made"))
    check_lengths(make_request(["64k", "128k"], ["story_multihop", "ruler_vt"], samples=1_000_000), qwen)
    assert len(composed) <= 4


def test_an_answer_longer_than_the_length_is_too_short(qwen: PromptTokenizer) -> None:
    request = make_request([4_096], ["ruler_vt"], max_new_tokens=5_000, length_includes_output=True, samples=1)
    assert shortest(request, qwen) > 5_000
    with pytest.raises(TooShortError):
        make_sample(request, qwen, request.tasks[0], 4_096, 0)
