"""Contexts that are compressed before the question is read: where they end, what is recorded, compared and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.attention.attention import Attention
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.tokenizers import PromptTokenizer, load_tokenizer
from sparse_tasks.evaluators.analyses.table import read_runs
from sparse_tasks.evaluators.dataset import Dataset, open_dataset
from sparse_tasks.evaluators.predict import RunRequest, predict
from sparse_tasks.evaluators.prompts import context_tokens
from sparse_tasks.evaluators.records import Result
from sparse_tasks.evaluators.repeats import differs
from sparse_tasks.evaluators.results import compare_runs, score_run
from sparse_tasks.evaluators.runs import Run
from sparse_tasks.generators.run import generate_folder
from tests.cli.program import run
from tests.generators.requests import make_request
from tests.schemas.validation import problems

Refused = Callable[..., Any]


@pytest.fixture(scope="module")
def after(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A data set with questions after their contexts."""
    folder = tmp_path_factory.mktemp("after") / "data"
    asked = make_request(["900"], ["ruler_niah_single_2"], samples=2, tokenizer=str(model), question_position="after")
    generate_folder(asked, load_tokenizer(str(model)), folder)
    return open_dataset(str(folder))


@pytest.fixture
def able(fake: Any, after: Dataset) -> Any:
    """The fake, which compresses contexts and writes gold answers."""
    fake.compresses_contexts = fake.runs_methods = True
    fake.texts = {row["id"]: f"<answer>{row['answer']}</answer>" for row in after.rows(after.select())}
    return fake


def answered(folder: Path, dataset: Dataset, model: Path, compress: str, method: str = "snapkv", **more: Any) -> Result:
    attention = Attention.parse(method, sparsity=None if method == "dense" else 0.8)
    options = {"attention": attention, "compress": compress, "max_new_tokens": 20, **more}
    with Run(folder) as opened:
        predict(RunRequest(dataset, dataset.select(), str(model), "fake", **options), opened)
        return score_run(opened, dataset)


# --- where a context ends -----------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["auto", "none"])
@pytest.mark.parametrize("beginning", ["", "<answer>\n"])
def test_the_first_ids_are_those_of_the_context_whatever_is_asked(
    after: Dataset, model: Path, template: str, beginning: str
) -> None:
    tokenizer = load_tokenizer(str(model), template)
    for row in after.rows(after.select()):
        ends = []
        for question in (row["question"], "Why?", row["question"] + " Why?"):
            ids = tokenizer.ids(row["context"] + question, beginning)
            count = context_tokens(tokenizer, row["context"] + question, row["context"], ids, beginning)
            ends.append(ids[:count])
            text = tokenizer.backend.decode(ids[:count], skip_special_tokens=False)
            assert text.endswith(row["context"][-20:])
            rest = tokenizer.backend.decode(ids[count:], skip_special_tokens=False)
            assert rest.startswith(question[:4])
        assert ends[0] == ends[1] == ends[2]


def test_a_token_across_the_end_is_excluded(qwen: PromptTokenizer) -> None:
    context, question = "The secret is kept by some", "one. Who keeps it?"  # " someone" is a token
    ids = qwen.ids(context + question)
    count = context_tokens(qwen, context + question, context, ids)
    assert qwen.backend.decode(ids[:count], skip_special_tokens=False).endswith("The secret is kept by")
    assert qwen.backend.decode(ids[count:], skip_special_tokens=False).startswith(" someone. Who")


def test_unknown_context_ends_are_refused(qwen: PromptTokenizer, tmp_path: Path, refused: Refused) -> None:
    with refused(UsageError, "needs prompts that begin with their context"):
        context_tokens(qwen, "What? A text. What?", "A text.", qwen.ids("What? A text. What?"))
    template = tmp_path / "twice.jinja"
    template.write_text("{{ messages[0].content }} Again: {{ messages[0].content }}")
    twice = load_tokenizer("qwen2.5", str(template))
    with refused(UsageError, "chat-template: 'auto' changes or repeats prompts"):
        context_tokens(twice, "A text. What?", "A text.", twice.ids("A text. What?"))


# --- a run --------------------------------------------------------------------------------------------------


def test_the_engine_gets_it_and_it_is_recorded(tmp_path: Path, after: Dataset, model: Path, able: Any) -> None:
    for name, compress, recorded in (("context", "context", "context"), ("prompt", "prompt", None)):
        able.asked.clear()
        answered(tmp_path / name, after, model, compress)
        assert {request.context is not None for request in able.asked} == {recorded is not None}
        assert all(request.context is None or 500 < request.context < len(request.ids) for request in able.asked)
        for file in ("run", "result"):
            content = json.loads((tmp_path / name / f"{file}.json").read_bytes())
            assert (content["query_aware"], content.get("compress")) == (False, recorded)
            assert problems(content, f"{file}-1.0") == []


def test_a_run_resumes_only_with_the_same_setting(
    tmp_path: Path, after: Dataset, model: Path, able: Any, refused: Refused
) -> None:
    answered(tmp_path / "run", after, model, "context")
    with refused(UsageError, 'holds another run (compress is "context" in it, null here'):
        answered(tmp_path / "run", after, model, "prompt")


def test_impossible_settings_are_refused(
    tmp_path: Path, dataset: Dataset, after: Dataset, model: Path, able: Any, refused: Refused
) -> None:
    with refused(UsageError, "compress: 'context' is too late", "generate --question-position after"):
        answered(tmp_path / "run", dataset, model, "context")
    with refused(UsageError, "compress: 'contexts'", "did you mean 'context'"):
        answered(tmp_path / "run", after, model, "contexts")
    with refused(UsageError, "compress: 'context' cannot be combined with --free-blocks"):
        answered(tmp_path / "run", after, model, "context", free_blocks=True)
    with refused(UsageError, "compress: 'context' does not go with snapkv_blocks, which chooses once all layers"):
        answered(tmp_path / "run", after, model, "context", "snapkv_blocks")
    able.compresses_contexts = False
    with refused(UsageError, "engine: 'fake' lets methods that evict see the whole prompt", "transformers"):
        answered(tmp_path / "run", after, model, "context")


def test_servers_refuse_it(tmp_path: Path, after: Dataset, model: Path, refused: Refused) -> None:
    request = RunRequest(after, after.select(), str(model), "openai", compress="context")
    with (
        refused(UsageError, "engine: 'openai' lets methods that evict see the whole prompt; choose --engine from"),
        Run(tmp_path) as one,
    ):
        predict(request, one)


# --- several runs -------------------------------------------------------------------------------------------


def test_runs_that_differ_in_it_are_separated_and_compared(
    tmp_path: Path, after: Dataset, model: Path, able: Any, refused: Refused
) -> None:
    answered(tmp_path / "dense", after, model, "prompt", "dense")
    answered(tmp_path / "prompt", after, model, "prompt")
    able.texts = dict.fromkeys(able.texts, "<answer>none</answer>")
    answered(tmp_path / "context", after, model, "context")
    answered(tmp_path / "h2o", after, model, "context", "h2o")
    runs = read_runs([tmp_path / "prompt", tmp_path / "context"])
    assert [one.prompts for one in runs.runs] == ["question after", "query-agnostic"]
    assert len({one.pairing for one in runs.runs}) == 2
    assert differs(*(one.settings for one in runs.runs)) == "compress"
    for pair in (("dense", "prompt", 0.0), ("dense", "context", -1.0), ("prompt", "context", -1.0)):
        assert compare_runs(tmp_path / pair[0], tmp_path / pair[1]).rows[0].difference == pair[2]
    with refused(UsageError, "compresses another part of prompts", "they differ in other settings (attention.method"):
        compare_runs(tmp_path / "prompt", tmp_path / "h2o")
    reported = run("compare", tmp_path / "prompt", tmp_path / "context").out.splitlines()
    assert reported[0].endswith("attention snapkv at sparsity 0.8, question after)")
    assert reported[1].endswith("attention snapkv at sparsity 0.8, query-agnostic)")


@pytest.mark.skipif(find_spec("torch") is None or find_spec("transformers") is None, reason="torch is not installed")
@pytest.mark.filterwarnings("ignore")
def test_the_command_compresses_contexts_in_a_model(llama: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    options = ["-l", "700", "-t", "ruler_niah_single_2", "-n", "1", "-w", "1", "--tokenizer", llama]
    assert run("generate", *options, "--question-position", "after", "-o", data).code == 0
    command = ["evaluate", data, "-m", llama, "--engine", "transformers", "--max-new-tokens", "3"]
    measured = {}
    for compress in ("prompt", "context"):
        done = run(*command, "-a", "snapkv", "-s", "0.8", "--compress", compress, "-o", tmp_path / compress)
        assert done.code == 0, done.err
        line = json.loads((tmp_path / compress / "predictions.jsonl").read_text())
        measured[compress] = line["sparsity"]["decode"]
    row = next(open_dataset(str(data)).rows(open_dataset(str(data)).select()))
    tokenizer = load_tokenizer(str(llama))
    ids = tokenizer.ids(row["prompt"])
    context = context_tokens(tokenizer, row["prompt"], row["context"], ids)
    # Steps from the question's first token on see what is left of the context, and all that came after it.
    steps = range(context + 1, len(ids) + 3)
    dropped = context - int(round(context * 0.2, 6))
    assert measured["context"] == pytest.approx(dropped * len(steps) / sum(steps), abs=1e-9)
    assert measured["prompt"] > measured["context"]
    assert json.loads((tmp_path / "context" / "run.json").read_bytes())["compress"] == "context"


@pytest.fixture
def asked_after(llama: Path, tmp_path: Path) -> list[Any]:
    options = ["-l", "700", "-t", "ruler_niah_single_2", "-n", "1", "-w", "1", "--tokenizer", llama]
    assert run("generate", *options, "--question-position", "after", "-o", tmp_path / "data").code == 0
    return [tmp_path / "data", "--model", llama, "--attention", "snapkv", "--sparsity", "0.8"]


@pytest.mark.skipif(find_spec("torch") is None or find_spec("transformers") is None, reason="torch is not installed")
@pytest.mark.filterwarnings("ignore")
def test_a_loss_under_compressed_contexts_is_explained(asked_after: list[Any], tmp_path: Path) -> None:
    measured = {}
    for compress in ("prompt", "context"):
        options = ["--max-new-tokens", "3", "--compress", compress, "-o", tmp_path / compress]
        done = run("explain", *asked_after, *options, "--format", "json")
        assert done.code == 0, done.err
        results = done.json()["results"]
        # A fourth, of kernels, where they run on a CPU, too.
        assert {result.get("compress") for result in results.values()} == {None if compress == "prompt" else compress}
        assert len(results) in (3, 4)
        measured[compress] = [results[name]["configs"][0]["sparsity"]["decode"] for name in ("oracle", "twin")]
        reported = run("explain", *asked_after, *options)
        assert reported.out.splitlines()[0].endswith("question after" if compress == "prompt" else "query-agnostic")
    # Tokens of the question are steps, too, and nothing of it is put out.
    assert all(context < prompt for context, prompt in zip(measured["context"], measured["prompt"], strict=True))


@pytest.mark.skipif(find_spec("torch") is None or find_spec("transformers") is None, reason="torch is not installed")
@pytest.mark.filterwarnings("ignore")
def test_attention_is_inspected_under_compressed_contexts(asked_after: list[Any], llama: Path) -> None:
    data, *options = asked_after
    found = {}
    for compress in ("prompt", "context"):
        more = ["--data", data, "-n", "1", "--steps", "3", "--compress", compress, "--format", "json"]
        done = run("attention", "inspect", *options, *more)
        assert done.code == 0, done.err
        assert done.json()["compress"] == compress
        (found[compress],) = done.json()["phases"]
    row = next(open_dataset(str(data)).rows(open_dataset(str(data)).select()))
    tokenizer = load_tokenizer(str(llama))
    ids = tokenizer.ids(row["prompt"])
    context = context_tokens(tokenizer, row["prompt"], row["context"], ids)
    assert found["prompt"]["queries"] == 3
    assert found["context"]["queries"] == 3 + len(ids) - context


@pytest.mark.parametrize("command", [["explain"], ["attention", "inspect"]])
def test_questions_before_the_context_are_refused(command: list[str], data: Path, llama: Path) -> None:
    options = [data] if command == ["explain"] else ["--data", data]
    done = run(*command, *options, "-m", llama, "-a", "snapkv", "-s", "0.8", "--compress", "context")
    assert done.code == 2
    assert done.says("compress: 'context' is too late", "generate --question-position after")


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(find_spec("sparse_tasks_probe") is None, reason="the probe model is not installed")
def test_snapkv_keeps_the_answer_only_if_it_sees_the_question(tmp_path: Path) -> None:
    from sparse_tasks.evaluators.models import find_model

    options = ["-l", "1k", "-t", "ruler_niah_multikey_1", "-n", "8", "-w", "1", "--question-position", "after"]
    assert run("generate", *options, "--tokenizer", find_model("probe").source, "-o", tmp_path / "data").code == 0
    command = ["evaluate", tmp_path / "data", "-m", "probe", "--engine", "transformers", "--max-new-tokens", "64"]
    for compress in ("prompt", "context"):
        more = ["--engine-arg", "dtype=float32", "-a", "snapkv", "-s", "0.8", "--compress", compress]
        assert run(*command, *more, "-o", tmp_path / compress).code == 0
    (row,) = compare_runs(tmp_path / "prompt", tmp_path / "context").rows
    assert row.mean_a >= 0.7
    assert row.mean_b <= 0.3
    assert row.interval.high < 0
