"""Promises of every task. A new task joins these tests by joining the registry."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sparse_tasks.core.length import TOLERANCE
from sparse_tasks.core.sample import Sample
from sparse_tasks.core.tokenizers import PromptTokenizer, load_tokenizer
from sparse_tasks.evaluators.scoring import score
from sparse_tasks.generators.corpora import Corpus
from sparse_tasks.generators.sampling import make_sample
from sparse_tasks.generators.task import TASKS, parameters
from tests.cli.program import ABSENT
from tests.evaluators.metrics import METRICS
from tests.example_corpora import example_corpora
from tests.generators.requests import make_request
from tests.schemas.validation import problems

pytestmark = pytest.mark.slow  # without coverage tracing: the code has its own tests

TASK_NAMES = TASKS.names()
LENGTHS = (8_192, 9_999, 12_345, 16_384, 40_000)
TOKENIZERS = [
    ("qwen2.5", "auto"),
    ("qwen2.5", "none"),
    ("byte_level", "auto"),
    ("llama", "auto"),
    ("llama", "none"),
    ("unigram", "none"),
    ("bert", "auto"),
]
# Each task with each tokenizer, each tokenizer with each length, each length with each task; at night each task and
# tokenizer with another length, and the largest length. RULER's needles share their code: they are tried once.
EXACT = [
    pytest.param(name, sort, template, length, marks=pytest.mark.nightly if third or length == max(LENGTHS) else ())
    for first, name in enumerate(TASK_NAMES)
    for second, (sort, template) in enumerate(TOKENIZERS)
    for third in ((0,) if name.startswith("ruler_niah_") else (0, 2))
    for length in [LENGTHS[(first + second + third) % len(LENGTHS)]]
]

load_once = functools.cache(load_tokenizer)  # most of what a short sample costs


def needed_by(name: str) -> dict[str, Corpus]:
    """The corpus without which a task cannot be made; a made one."""
    corpus = TASKS.get(name).texts.get("corpus")
    return {} if corpus is None else {corpus: example_corpora()[corpus]}


def make(name: str, tokenizer: PromptTokenizer, length: int = 6_000, index: int = 0, **options: object) -> Sample:
    request = make_request([length], [name], corpora=needed_by(name), **options)  # type: ignore[arg-type]
    return make_sample(request, tokenizer, request.tasks[0], length, index)


make_once = functools.cache(make)


def sample_of(name: str, tokenizer: PromptTokenizer, length: int = 6_000, index: int = 0, **options: object) -> Sample:
    """Cached ``make``, since most tests use the same samples. Defaults are part of the cache's key."""
    return make_once(name, tokenizer, length, index, **options)


@pytest.fixture(scope="module")
def qwen() -> PromptTokenizer:
    return load_once("qwen2.5", "auto")


@pytest.fixture(scope="module")
def another_qwen() -> PromptTokenizer:
    """The built-in tokenizer, loaded another time."""
    return load_tokenizer()


@pytest.mark.parametrize("name", TASK_NAMES)
def test_same_key_gives_the_same_sample(name: str, qwen: PromptTokenizer, another_qwen: PromptTokenizer) -> None:
    assert sample_of(name, qwen) == make(name, another_qwen)


def test_another_process_without_torch_gives_the_same_samples(qwen: PromptTokenizer) -> None:
    # Hash randomisation, import order and what was generated before must not matter.
    script = ABSENT + (
        "import json, sys; from tests.contract.test_tasks import sample_of; from sparse_tasks.core.tokenizers import *;"
        "qwen = load_tokenizer();"
        "print(json.dumps({name: sample_of(name, qwen, index=3).row() for name in sys.argv[:0:-1]}))"
    )
    made = subprocess.run([sys.executable, "-c", script, *TASK_NAMES], check=True, capture_output=True, text=True)
    rows = json.loads(made.stdout)
    assert list(rows) == TASK_NAMES[::-1]
    for name in TASK_NAMES:
        assert rows[name] == sample_of(name, qwen, index=3).row()


@pytest.mark.parametrize("option", [{"seed": 43}, {"index": 1}, {"length": 6_001}, {"question_position": "after"}])
@pytest.mark.parametrize("name", TASK_NAMES)
def test_another_key_gives_another_sample(name: str, option: dict[str, object], qwen: PromptTokenizer) -> None:
    assert sample_of(name, qwen, **option).context != sample_of(name, qwen).context  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "sort", "template", "length"), EXACT)
def test_length_is_exact(name: str, sort: str, template: str, length: int, tokenizer_folders: dict[str, Path]) -> None:
    tokenizer = load_once(str(tokenizer_folders.get(sort, sort)), template)
    sample = sample_of(name, tokenizer, length)
    assert sample.input_tokens == len(tokenizer.ids(sample.prompt))
    assert length - TOLERANCE <= sample.input_tokens <= length


@pytest.mark.parametrize("name", TASK_NAMES)
def test_length_may_include_the_answer(name: str, qwen: PromptTokenizer) -> None:
    sample = sample_of(name, qwen, 8_000, length_includes_output=True, max_new_tokens=500)
    assert 7_500 - TOLERANCE <= sample.input_tokens <= 7_500
    assert (sample.length, sample.max_new_tokens) == (8_000, 500)


@pytest.mark.parametrize("name", TASK_NAMES)
def test_gold_scores_one_and_nothing_scores_zero(name: str, qwen: PromptTokenizer) -> None:
    for index in range(8):
        sample = sample_of(name, qwen, index=index)
        assert sample.metric in METRICS
        perfect = f"<explanation>It says so.</explanation>\n<answer>{sample.answer}</answer>"
        assert score(sample.metric, perfect, sample.answers).value == 1.0
        for output in ("", "<answer></answer>", "I do not know.", sample.prompt):
            assert score(sample.metric, output, sample.answers).value == 0.0


@pytest.mark.parametrize("name", TASK_NAMES)
def test_begun_gold_scores_one_and_nothing_scores_zero(name: str, qwen: PromptTokenizer) -> None:
    for index in range(2):
        sample = sample_of(name, qwen, index=index, preset="small")
        assert sample.answer_prefix == "<answer>\n"
        for perfect in (f"{sample.answer}</answer>", f"{sample.answer}\n</answer>\nThe end.", sample.answer):
            assert score(sample.metric, perfect, sample.answers, begun=True).value == 1.0
        for output in ("", "</answer>", "I do not know.", sample.prompt + "</answer>"):
            assert score(sample.metric, output, sample.answers, begun=True).value == 0.0


@pytest.mark.parametrize(("sort", "template"), [("qwen2.5", "auto"), ("qwen2.5", "none"), ("byte_level", "auto")])
@pytest.mark.parametrize("name", TASK_NAMES)
def test_length_counts_the_beginning_of_an_answer(
    name: str, sort: str, template: str, tokenizer_folders: dict[str, Path]
) -> None:
    tokenizer = load_once(str(tokenizer_folders.get(sort, sort)), template)
    length = 4_096 if sort == "qwen2.5" else 8_192
    sample = sample_of(name, tokenizer, length, preset="small")
    beginning = "<answer>\n" if template == "auto" else ""
    assert sample.input_tokens == len(tokenizer.ids(sample.prompt, beginning))
    assert length - TOLERANCE <= sample.input_tokens <= length


@pytest.mark.parametrize("name", TASK_NAMES)
def test_answer_of_another_sample_is_wrong(name: str, qwen: PromptTokenizer) -> None:
    # An answer that hardly varies could be guessed.
    samples = [sample_of(name, qwen, index=index) for index in range(8)]
    values = [
        score(one.metric, f"<answer>{other.answer}</answer>", one.answers).value
        for one, other in zip(samples, samples[1:] + samples[:1], strict=True)
    ]
    assert sum(values) / len(values) < 0.5


@pytest.mark.parametrize("position", ["both", "after"])
@pytest.mark.parametrize("template", ["auto", "none"])
@pytest.mark.parametrize("name", TASK_NAMES)
def test_oracle_reads_the_answer_from_the_prompt_alone(name: str, template: str, position: str) -> None:
    tokenizer = load_once("qwen2.5", template)
    options = {} if position == "both" else {"question_position": position}
    for index in range(4):
        sample = sample_of(name, tokenizer, index=index, **options)
        assert sample.question_position == position
        # A task without the sample's parameters: the oracle only knows the prompt, and the corpus.
        corpora = [corpus.sha256 for corpus in needed_by(name).values()]
        task = TASKS.get(name).from_settings(dict(zip(["corpus"], corpora, strict=False)))
        assert task.oracle(sample.prompt) == sample.answer
        assert task.audit(sample.prompt) == []


@pytest.mark.parametrize("name", TASK_NAMES)
def test_evidence_contains_its_label(name: str, qwen: PromptTokenizer) -> None:
    for index in range(4):
        sample = sample_of(name, qwen, index=index)
        start = sample.prompt.rindex(sample.context)
        assert sample.evidence
        for span in sample.evidence:
            words = sample.prompt[span.start : span.end]
            assert span.label in words
            assert words == words.strip()
            assert start <= span.start < span.end <= start + len(sample.context)
            assert span.depth == pytest.approx((span.start - start) / len(sample.context), abs=1e-5)


@pytest.mark.parametrize("name", TASK_NAMES)
def test_after_is_context_question_prefix(name: str) -> None:
    for template in ("auto", "none"):
        sample = sample_of(name, load_once("qwen2.5", template), question_position="after")
        assert sample.prompt == sample.context + sample.question + sample.answer_prefix
        assert sample.question not in sample.context
        assert sample.question_position == "after"


@pytest.mark.parametrize("name", TASK_NAMES)
def test_sample_matches_the_schema(name: str, qwen: PromptTokenizer) -> None:
    assert problems(sample_of(name, qwen).row(), "sample-1.0") == []


@pytest.mark.parametrize("name", TASK_NAMES)
def test_every_parameter_works_at_its_smallest_value(name: str, qwen: PromptTokenizer) -> None:
    for p in parameters(TASKS.get(name)):
        choices = list(p.choices())[: 2 if p.name == "locale" else None] if p.choices else []
        values = [p.low] if p.kind is int else choices
        for value in values:
            if value == p.default:
                continue  # the other tests make that
            sample = make(name, qwen, settings={f"{name}.{p.name}": value})
            assert json.loads(sample.params).get(p.name, p.default if p.later else None) == value


@pytest.mark.parametrize("name", TASK_NAMES)
def test_task_describes_itself(name: str) -> None:
    task = TASKS.get(name)
    assert task.name == name
    assert {task.dispersion, task.scope} <= {"low", "high"}
    assert task.summary
    assert task.__doc__
    assert all(p.help for p in parameters(task))
