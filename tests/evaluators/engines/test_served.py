"""Runs on a server that measures: what it is asked, what is recorded, and where they end like those of this program."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.attention.attention import Attention
from sparse_tasks.core.errors import EngineError, UsageError
from sparse_tasks.core.records import to_builtins
from sparse_tasks.evaluators.analyses.table import read_runs
from sparse_tasks.evaluators.dataset import Dataset
from sparse_tasks.evaluators.engines import openai as module
from sparse_tasks.evaluators.engines.engine import EngineSettings, Request
from sparse_tasks.evaluators.engines.openai import OpenAIEngine
from sparse_tasks.evaluators.leaderboard.check import check
from sparse_tasks.evaluators.leaderboard.submission import make_submission
from sparse_tasks.evaluators.models import Model
from sparse_tasks.evaluators.predict import Progress, RunRequest, predict
from sparse_tasks.evaluators.runs import Run
from sparse_tasks.evaluators.sweep import sweep
from tests.evaluators.engines.server import MODEL, FakeServer, Reply

pytest.importorskip("openai", reason="needs the package openai")

Json = dict[str, Any]
Refused = Callable[..., Any]
QUEST = Attention.parse("quest", sparsity=0.9, arguments={"quest.page": 8})
SNAPKV = Attention.parse("snapkv", sparsity=0.9)
CONFIG = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 1000,
    "num_key_value_heads": 2, "intermediate_size": 128,
}  # fmt: skip


def card(*choices: Attention, **changed: Any) -> Json:
    own, *_ = choices
    entry = {
        "attention": to_builtins(own), "choices": [to_builtins(choice) for choice in choices],
        "versions": {"vllm": "0.32.0"}, "dtype": "float32", "tensor_parallel_size": 1, "layers": 2,
        "sparse_layers": 2, "self_test": None, "config": CONFIG,
    }  # fmt: skip
    return entry | changed


def measured(body: Json, **changed: Any) -> Json:
    """What a server of QUEST and SNAPKV says of a request."""
    method = body.get("attention", "quest")
    sparsity = 0.0 if method == "dense" else body.get("sparsity", 0.9)
    arguments = QUEST.arguments if method == "quest" else {}
    phases = {"prefill": 0.0, "decode": sparsity}
    return {
        "attention": {"method": method, "sparsity": sparsity, "arguments": arguments}, "sparsity": phases,
        "sparsity_spread": dict.fromkeys(phases, 0.0), "kv_bytes_per_step": None,
    } | changed  # fmt: skip


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setattr(module, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(module, "_LONGEST_WAIT", 0.02)
    with FakeServer() as server:
        server.models[0]["sparse_tasks"] = card(QUEST, SNAPKV)
        server.measures = measured
        yield server


def engine(server: FakeServer, attention: Attention, **arguments: Any) -> OpenAIEngine:
    arguments = {"base_url": server.url, **arguments}
    return OpenAIEngine(EngineSettings(Model(MODEL, MODEL), arguments=arguments, attention=attention))


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
@pytest.mark.parametrize(
    ("asked", "sent", "runs"),
    [
        (Attention.UNKNOWN, {}, QUEST),
        (QUEST, {}, QUEST),
        (
            Attention.parse("quest", sparsity=0.5, arguments={"page": "8"}),
            {"attention": "quest", "sparsity": 0.5},
            None,
        ),
        (SNAPKV, {"attention": "snapkv", "sparsity": 0.9}, SNAPKV),
        (Attention.DENSE, {"attention": "dense"}, Attention.DENSE),
    ],
)
def test_each_request_names_the_attention_and_comes_back_measured(
    server: FakeServer, endpoint: str, asked: Attention, sent: Json, runs: Attention | None
) -> None:
    made = engine(server, asked, endpoint=endpoint)
    made.start(100)
    (output,) = made.generate([Request("s0", "p0", [0, 5, 6, 7], 20)])
    (body,) = server.bodies
    assert {key: body[key] for key in ("attention", "sparsity") if key in body} == sent
    sparsity = 0.0 if asked == Attention.DENSE else sent.get("sparsity", 0.9)
    assert output.sparsity == {"prefill": 0.0, "decode": sparsity}
    assert output.sparsity_spread == {"prefill": 0.0, "decode": 0.0}
    expected = Attention.parse("quest", sparsity=0.5, arguments=QUEST.arguments) if runs is None else runs
    assert to_builtins(made.attention) == to_builtins(expected)  # the server says so: it is not nominal
    details = made.details()
    assert (details["server"], details["dtype"], details["tensor_parallel_size"]) == ({"vllm": "0.32.0"}, "float32", 1)
    assert (details["layers"], details["sparse_layers"], details["self_test"]) == (2, 2, None)
    assert made.settings.model.shape is not None
    assert made.settings.model.shape.kv_heads == 2


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Attention.parse("h2o", sparsity=0.9), ("attention: 'h2o'", "choose from dense, quest, snapkv (at http://")),
        (Attention.parse("quest", sparsity=0.9), ("attention: 'quest-0.9' has sparsity=0.9, quest.page=8 at http",)),
        (Attention.parse("snapkv"), ("attention: 'snapkv' has sparsity=0.9 at http", "say so with --sparsity")),
        (Attention.parse("snapkv", sparsity=0.9, arguments={"window": 8}), ("'snapkv-0.9' has sparsity=0.9 at http",)),
    ],
)
def test_what_a_server_was_not_started_with_is_refused(
    server: FakeServer, asked: Attention, words: tuple[str, ...], refused: Refused
) -> None:
    with refused(UsageError, *words):
        engine(server, asked).context()


def test_a_server_that_says_nothing_runs_no_method(server: FakeServer, refused: Refused) -> None:
    del server.models[0]["sparse_tasks"]
    with refused(
        UsageError, "attention: 'snapkv-0.9' does not run at http", f"'sparse-tasks serve {MODEL} --attention"
    ):
        engine(server, SNAPKV).context()
    nominal = engine(server, Attention.DENSE)
    nominal.context()
    assert nominal.attention.nominal is True


def test_a_card_of_another_form_is_named(server: FakeServer, refused: Refused) -> None:
    server.models[0]["sparse_tasks"] = card(QUEST, dtype=7)
    with refused(EngineError, "dtype: expected `str`, not 7", "the server another"):
        engine(server, QUEST).context()


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (lambda body: None, "after 2 retries: the answer came without what was measured"),
        (
            lambda body: measured(body, attention=to_builtins(SNAPKV)),
            "ran sample s0 under snapkv-0.9; it was restarted",
        ),
        (lambda body: measured(body, sparsity={"decode": 1.5}), "sample s0: sparsity"),
    ],
    ids=["none", "other", "form"],
)
def test_an_answer_without_its_measurements_is_none(server: FakeServer, says: Any, words: str) -> None:
    server.measures = says
    asked = engine(server, QUEST, retries=2)
    asked.start(100)
    with pytest.raises(EngineError, match=re.escape(words)):
        list(asked.generate([Request("s0", "p0", [0, 5, 6, 7], 20)]))


def test_the_engine_keeps_the_fields_of_the_choice_to_itself(server: FakeServer, refused: Refused) -> None:
    with refused(UsageError, "may not hold sparsity, which the engine sets"):
        engine(server, QUEST, extra_body={"sparsity": 0.1})


# --- runs -----------------------------------------------------------------------------------------------------


def request(server: FakeServer, dataset: Dataset, model: Path, attention: Attention | None = None) -> RunRequest:
    arguments = {"base_url": server.url, "concurrency": 4}
    selection = dataset.select(["ruler_niah"], ["1100"])
    return RunRequest(dataset, selection, MODEL, "openai", arguments, tokenizer=str(model), attention=attention)


def settings(run: Path) -> Json:
    content: Json = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return content


def test_served_runs_enter_a_sweep_and_a_submission(
    server: FakeServer, dataset: Dataset, model: Path, tmp_path: Path
) -> None:
    server.models[0]["sparse_tasks"] = card(QUEST, SNAPKV)
    swept = sweep(
        request(server, dataset, model), [SNAPKV, Attention.parse("snapkv", sparsity=0.5)], tmp_path / "runs",
        lambda attention: _Quiet(),
    )  # fmt: skip
    assert [one.attention.label for one in swept] == ["dense", "snapkv-0.9", "snapkv-0.5"]
    for one in swept:
        recorded = settings(one.folder)
        assert "nominal" not in recorded["attention"]
        assert recorded["attention"]["method"] == one.attention.method
        assert recorded["model"]["shape"]["layers"] == 2
        means = {config.sparsity["decode"] for config in one.result.configs if config.sparsity is not None}
        assert means == {one.attention.sparsity}
        assert (one.comparison is None) == (one.attention == Attention.DENSE)
    content = make_submission(read_runs([one.folder for one in swept]))
    path = tmp_path / "submission.json"
    path.write_bytes(content)
    verdict = check(path, [dataset])
    assert verdict.accepted, verdict.reasons
    assert not {warning.code for warning in verdict.warnings} & {"attention_unknown", "sparsity_missing"}


class _Quiet(Progress):
    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        return


def test_a_run_that_names_no_attention_is_of_the_servers_and_stays_so(
    server: FakeServer, dataset: Dataset, model: Path, tmp_path: Path, refused: Refused
) -> None:
    asked = request(server, dataset, model)
    server.dies_after = 2
    with Run(tmp_path / "run") as run, pytest.raises(EngineError):
        predict(asked, run)
    begun = settings(tmp_path / "run")["attention"]
    assert begun == to_builtins(QUEST)
    server.dies_after = None
    with Run(tmp_path / "run") as run:
        assert 0 < len(run.finished()) < 4
    server.models[0]["sparse_tasks"] = card(SNAPKV)
    with Run(tmp_path / "run") as run, refused(UsageError, "another run (attention.method is", "snapkv"):
        predict(asked, run)
    del server.models[0]["sparse_tasks"]
    with Run(tmp_path / "run") as run, refused(UsageError, "another run (attention.method is", "unknown"):
        predict(asked, run)
    server.models[0]["sparse_tasks"] = card(QUEST, SNAPKV)
    for _ in range(2):
        with Run(tmp_path / "run") as run:
            predict(asked, run)
            assert len(run.finished()) == 4
        server.models_reply = (500, "{}")  # what is finished needs no server
    assert settings(tmp_path / "run")["attention"] == begun


def test_dense_attention_of_such_a_server_goes_on_as_it_began(
    server: FakeServer, dataset: Dataset, model: Path, tmp_path: Path
) -> None:
    """Before the server is asked, dense attention is the user's word."""
    asked = request(server, dataset, model, Attention.DENSE)
    server.dies_after = 2
    with Run(tmp_path / "run") as run, pytest.raises(EngineError):
        predict(asked, run)
    server.dies_after = None
    with Run(tmp_path / "run") as run:
        predict(asked, run)
        assert len(run.finished()) == 4
    assert settings(tmp_path / "run")["attention"] == to_builtins(Attention.DENSE)
    assert server.reply == Reply()
