"""Promises of the story tasks in every language. A new language joins these tests by its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparse_tasks.core.length import TOLERANCE
from sparse_tasks.core.sample import Sample
from sparse_tasks.core.tokenizers import PromptTokenizer, load_tokenizer
from sparse_tasks.evaluators.scoring import score
from sparse_tasks.generators.story.language import language, languages
from sparse_tasks.generators.task import TASKS
from tests.contract.test_tasks import load_once, make, sample_of
from tests.evaluators.metrics import METRICS
from tests.generators.drafts import STORIES
from tests.schemas.validation import problems

pytestmark = pytest.mark.slow  # without coverage tracing: the code has its own tests

CASES = [pytest.param(name, code, id=f"{name} {code}") for name in STORIES for code in languages() if code != "en"]
TOKENIZERS = [
    ("qwen2.5", "auto", 9_999),
    pytest.param("byte_level", "auto", 12_345, marks=pytest.mark.nightly),
    pytest.param("llama", "none", 16_384, marks=pytest.mark.nightly),
]


def sample_in(
    code: str, name: str, tokenizer: PromptTokenizer, length: int = 6_000, index: int = 0, **options: object
) -> Sample:
    return make(name, tokenizer, length, index, settings={"story.language": code}, **options)


@pytest.mark.parametrize(("name", "code"), CASES)
def test_same_key_gives_the_same_sample(name: str, code: str, qwen: PromptTokenizer) -> None:
    once, again = sample_in(code, name, qwen), sample_in(code, name, load_tokenizer())
    assert once == again
    assert once.context != sample_of(name, qwen).context
    assert json.loads(once.params)["language"] == code
    assert json.loads(once.params)["locale"] == language(code).locale
    assert problems(once.row(), "sample-1.0") == []


@pytest.mark.parametrize(("sort", "template", "length"), TOKENIZERS)
@pytest.mark.parametrize(("name", "code"), CASES)
def test_length_is_exact(
    name: str, code: str, sort: str, template: str, length: int, tokenizer_folders: dict[str, Path]
) -> None:
    tokenizer = load_once(str(tokenizer_folders.get(sort, sort)), template)
    sample = sample_in(code, name, tokenizer, length)
    assert sample.input_tokens == len(tokenizer.ids(sample.prompt))
    assert length - TOLERANCE <= sample.input_tokens <= length


@pytest.mark.parametrize(("name", "code"), CASES)
def test_gold_scores_one_and_nothing_scores_zero(name: str, code: str, qwen: PromptTokenizer) -> None:
    samples = [sample_in(code, name, qwen, index=index) for index in range(4)]
    for sample in samples:
        assert sample.metric in METRICS
        perfect = f"<explanation>…</explanation>\n<answer>{sample.answer}</answer>"
        assert score(sample.metric, perfect, sample.answers, question=sample.question).value == 1.0
        for output in ("", "<answer></answer>", "?", sample.prompt):
            assert score(sample.metric, output, sample.answers, question=sample.question).value == 0.0
    others = [
        score(one.metric, f"<answer>{other.answer}</answer>", one.answers).value
        for one, other in zip(samples, samples[1:] + samples[:1], strict=True)
    ]
    assert sum(others) / len(others) < 0.5


@pytest.mark.parametrize(("name", "code"), CASES)
def test_begun_answers_are_asked_for_without_an_explanation(name: str, code: str, qwen: PromptTokenizer) -> None:
    sample = sample_in(code, name, qwen, preset="small")
    assert sample.answer_prefix == "<answer>\n"
    assert "<explanation>" not in sample.prompt
    assert language(code).instructions.plain in sample.question
    assert score(sample.metric, f"{sample.answer}</answer>", sample.answers, begun=True).value == 1.0


@pytest.mark.parametrize("position", ["both", "after"])
@pytest.mark.parametrize(("name", "code"), CASES)
def test_oracle_reads_the_answer_from_the_prompt_alone(name: str, code: str, position: str) -> None:
    for index, template in enumerate(("auto", "none")):
        sample = sample_in(code, name, load_once("qwen2.5", template), index=index, question_position=position)
        # A task without the language, which must also follow from the prompt.
        task = TASKS.get(name).from_settings({})
        assert task.oracle(sample.prompt) == sample.answer
        assert task.audit(sample.prompt) == []
        if position == "after":
            assert sample.prompt == sample.context + sample.question + sample.answer_prefix


@pytest.mark.parametrize(("name", "code"), CASES)
def test_evidence_holds_what_it_claims(name: str, code: str, qwen: PromptTokenizer) -> None:
    for index in range(2):
        sample = sample_in(code, name, qwen, index=index)
        start = sample.prompt.rindex(sample.context)
        assert sample.evidence
        for span in sample.evidence:
            words = sample.prompt[span.start : span.end]
            assert span.label in words
            assert words == words.strip()
            assert words[-1] in ".!?。！？”“", words
            assert start <= span.start < span.end <= start + len(sample.context)
