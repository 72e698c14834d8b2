"""The engine ``transformers`` on a small random model: greedy, repeatable, counted, and told when it cannot."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.tokenizers import load_tokenizer
from sparse_tasks.evaluators.dataset import open_dataset
from sparse_tasks.evaluators.engines.engine import Engine, EngineSettings, Output, Request
from sparse_tasks.evaluators.engines.transformers import TransformersEngine
from sparse_tasks.evaluators.models import Model, find_model
from sparse_tasks.evaluators.predict import RunRequest, predict
from sparse_tasks.evaluators.results import score_run
from sparse_tasks.evaluators.runs import Run
from sparse_tasks.generators.run import generate_folder
from tests.generators.requests import make_request

needs_torch = pytest.mark.skipif(
    find_spec("torch") is None or find_spec("transformers") is None, reason="torch or transformers is not installed"
)
# Warnings of libraries about themselves are not ours to answer.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def model(llama: Path) -> Model:
    return find_model(str(llama))


def engine(model: Model, **settings: Any) -> Engine:
    return TransformersEngine(EngineSettings(model, **settings))


def outputs(model: Model, requests: list[Request], **settings: Any) -> list[Output]:
    running = engine(model, **settings)
    running.start(4096)
    try:
        return list(running.generate(requests))
    finally:
        running.stop()


def requests(n: int, budget: int = 8) -> list[Request]:
    return [Request(f"r{i}", "", [5 + i, 6, 7, 8, 9], budget) for i in range(n)]


@needs_torch
def test_greedy_answers_do_not_depend_on_what_ran_before(model: Model) -> None:
    forward, backward = outputs(model, requests(3)), outputs(model, requests(3)[::-1])
    assert [output.text for output in forward] == [output.text for output in backward[::-1]]
    assert len({output.text for output in forward}) > 1


@needs_torch
def test_sampled_answers_repeat_with_their_seed_alone(model: Model) -> None:
    first, again = (outputs(model, requests(2), temperature=1.0, seed=1) for _ in range(2))
    other = outputs(model, requests(2), temperature=1.0, seed=2)
    assert [output.text for output in first] == [output.text for output in again]
    assert [output.text for output in first] != [output.text for output in other]
    assert [output.text for output in outputs(model, requests(2)[1:], temperature=1.0, seed=1)] == [first[1].text]


@needs_torch
def test_answer_says_what_it_took(model: Model) -> None:
    for output in outputs(model, requests(2, budget=5)):
        assert output.input_tokens == 5
        assert output.output_tokens is not None
        assert (output.finish_reason == "length") == (output.output_tokens == 5)
        assert output.seconds_to_first_token is not None
        assert output.seconds is not None
        assert 0 < output.seconds_to_first_token <= output.seconds


@needs_torch
def test_run_reads_the_ids_that_were_counted(model: Model, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(model.source)
    generate_folder(make_request(["700"], ["ruler_niah"], samples=2, settings={"ruler_niah.queries": "1"},
                                 tokenizer=model.source), tokenizer, tmp_path / "data")  # fmt: skip
    dataset = open_dataset(str(tmp_path / "data"))
    asked = RunRequest(dataset, dataset.select(), model.name, "transformers", max_new_tokens=4)
    with Run(tmp_path / "run") as run:
        settings = predict(asked, run)
        result = score_run(run)
        tokens = [prediction.input_tokens for prediction in run.predictions()]
    assert tokens == [row["input_tokens"] for row in dataset.rows(dataset.select())]
    assert settings.prompt.as_generated is True
    assert settings.engine.details == {"device": "cpu", "dtype": "float32"} or settings.environment.hardware.gpus
    assert result.configs[0].n == 2


@needs_torch
def test_begun_answers_are_read_by_the_model(model: Model, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(model.source)
    generate_folder(make_request(["700"], ["ruler_niah"], samples=2, settings={"ruler_niah.queries": "1"},
                                 tokenizer=model.source), tokenizer, tmp_path / "data")  # fmt: skip
    dataset = open_dataset(str(tmp_path / "data"))
    asked = RunRequest(dataset, dataset.select(), model.name, "transformers", max_new_tokens=4, begin_answer=True)
    with Run(tmp_path / "run") as run:
        settings = predict(asked, run)
        score_run(run)
        tokens = [prediction.input_tokens for prediction in run.predictions()]
    rows = list(dataset.rows(dataset.select()))
    assert tokens == [len(tokenizer.ids(row["prompt"], "<answer>\n")) for row in rows]
    assert all(token > row["input_tokens"] for token, row in zip(tokens, rows, strict=True) if token is not None)
    assert (settings.begins_answer, settings.prompt.as_generated) == (True, False)


@needs_torch
@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"devise": "cpu"}, r"did you mean 'device'"), ({"dtype": 16}, r"must be a name")],
)
def test_wrong_argument_is_told(model: Model, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        engine(model, arguments=arguments)


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparse_tasks.evaluators.engines.transformers.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs torch; install sparse-tasks\[transformers\]"):
        engine(Model("m", "m"))
