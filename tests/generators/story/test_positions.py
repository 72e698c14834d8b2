"""Where the evidence stands: anywhere, unless a depth is asked for."""

from __future__ import annotations

import json

import pytest

from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.generators.depth import Depth, parse_depth
from sparse_tasks.generators.sampling import make_sample
from tests.generators.drafts import depths, draft_of, farthest_from_uniform
from tests.generators.requests import make_request

STEERABLE = ("story_retrieval", "story_multihop", "story_filtering")
SAMPLES, CHAPTERS = 160, 24


@pytest.mark.parametrize("name", STEERABLE)
def test_gold_may_be_anywhere(name: str) -> None:
    # One piece of evidence of each sample: those of one sample are not independent of one another.
    found = []
    for seed in range(SAMPLES):
        where = depths(draft_of(name, f"position {seed}", CHAPTERS))
        found.append(where[seed % len(where)])
    assert len(set(found)) == SAMPLES
    # Wider than the critical value at one in a thousand (1.95 / sqrt(160) = 0.154), plus half a chapter.
    assert farthest_from_uniform(found) < 0.16


def test_the_bound_above_would_find_a_bias() -> None:
    # RULER's questions put the gold document last; a slight pull to one end is found as well.
    assert farthest_from_uniform([0.95] * SAMPLES) > 0.9
    assert farthest_from_uniform([(i / SAMPLES) ** 1.6 for i in range(SAMPLES)]) > 0.16


def test_each_question_of_a_retrieval_is_spread_over_the_story() -> None:
    pooled = [d for seed in range(20) for d in depths(draft_of("story_retrieval", f"pool {seed}", 64))]
    assert len(pooled) == 320
    assert farthest_from_uniform(pooled) < 0.1


@pytest.mark.parametrize("depth", ["0", "0.1", "0.5", "0.9", "1", "0.2-0.4", "0.75-1"])
@pytest.mark.parametrize("name", STEERABLE)
def test_a_depth_is_respected(name: str, depth: str) -> None:
    wanted = parse_depth(depth)
    one = {"questions": 1} if name == "story_retrieval" else {"chapters": 1} if name == "story_filtering" else {}
    for seed in range(4):
        found = depths(draft_of(name, seed, 100, wanted, **one))[0]
        # A chapter is a hundredth of the story, long ones up to three.
        assert wanted.low - 0.06 <= found <= wanted.high + 0.05


@pytest.mark.parametrize("name", STEERABLE)
def test_a_depth_range_is_used_to_its_ends(name: str) -> None:
    one = {"questions": 1} if name == "story_retrieval" else {"chapters": 1} if name == "story_filtering" else {}
    found = [depths(draft_of(name, seed, 60, Depth(0.2, 0.6), **one))[0] for seed in range(40)]
    assert min(found) < 0.28
    assert max(found) > 0.52


@pytest.mark.parametrize("name", STEERABLE)
@pytest.mark.parametrize("depth", ["0.1", "0.9"])
def test_filler_does_not_move_the_evidence_away(name: str, depth: str, qwen: PromptTokenizer) -> None:
    # The whole way: exact length, tokenizer, evidence as stored.
    request = make_request([24_000], [name], depth=depth)
    for index in range(2):
        sample = make_sample(request, qwen, request.tasks[0], 24_000, index)
        assert json.loads(sample.params)["depth"] == depth
        middle = sorted(span.depth for span in sample.evidence)[len(sample.evidence) // 2]
        # Sixteen neighbouring chapters are a fifth of this story.
        assert abs(middle - float(depth)) < 0.14


@pytest.mark.parametrize("name", STEERABLE)
def test_question_after_the_context_leaves_nothing_before_it(name: str, qwen: PromptTokenizer) -> None:
    request = make_request([5_000], [name], question_position="after")
    sample = make_sample(request, qwen, request.tasks[0], 5_000, 0)
    assert sample.prompt == sample.context + sample.question + sample.answer_prefix
    assert sample.prompt.startswith("The Travels of ")
    assert sample.prompt.count("<answer>") == 1
    assert request.tasks[0].oracle(sample.prompt) == sample.answer
