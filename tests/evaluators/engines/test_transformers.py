"""The engine ``transformers`` on a small random model: greedy, repeatable, counted, with clear failures."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.tokenizers import load_tokenizer
from sparse_tasks.evaluators.dataset import open_dataset
from sparse_tasks.evaluators.engines.engine import EngineSettings, Output, Request
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


def engine(model: Model, **settings: Any) -> TransformersEngine:
    return TransformersEngine(EngineSettings(model, **settings))


def outputs(model: Model, requests: list[Request], **settings: Any) -> list[Output]:
    running = started(model, **settings)
    try:
        return list(running.generate(requests))
    finally:
        running.stop()


def started(model: Model, **settings: Any) -> TransformersEngine:
    running = engine(model, **settings)
    running.start(4096)
    return running


def texts(outputs: list[Output]) -> list[tuple[str, str | None]]:
    return [(output.text, output.finish_reason) for output in outputs]


def requests(n: int, budget: int = 8) -> list[Request]:
    return [Request(f"r{i}", "", [5 + i, 6, 7, 8, 9], budget) for i in range(n)]


@needs_torch
def test_greedy_answers_do_not_depend_on_what_ran_before(model: Model) -> None:
    forward, backward = outputs(model, requests(3)), outputs(model, requests(3)[::-1])
    assert [output.text for output in forward] == [output.text for output in backward[::-1]]
    assert len({output.text for output in forward}) > 1


# Each changes greedy answers, or what generate returns, or makes it fail.
DECODING: dict[str, dict[str, Any]] = {
    "repetition_penalty": {"repetition_penalty": 5.0},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "bad_words_ids": {"bad_words_ids": [[token] for token in range(600)]},
    "min_new_tokens": {"min_new_tokens": 7},
    "min_length": {"min_length": 12},
    "forced_eos_token_id": {"forced_eos_token_id": 3, "max_new_tokens": 4},
    "suppress_tokens": {"suppress_tokens": list(range(600))},
    "begin_suppress_tokens": {"begin_suppress_tokens": list(range(600))},
    "sequence_bias": {"sequence_bias": [[[4], 100.0]]},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": [1, 50.0]},
    "guidance_scale": {"guidance_scale": 30.0},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 50.0},
    "num_beams": {"num_beams": 8, "length_penalty": -3.0, "early_stopping": True},
    "num_return_sequences": {"num_beams": 2, "num_return_sequences": 2},
    "watermarking_config": {"watermarking_config": {"bias": 50.0}},
    "stop_strings": {"stop_strings": ["e"]},
    "max_time": {"max_time": 1e-9},
    "return_dict_in_generate": {"return_dict_in_generate": True},
    "penalty_alpha": {"penalty_alpha": 0.6, "top_k": 4},
    "dola_layers": {"dola_layers": "low"},
    "sampling": {"do_sample": True, "temperature": 5.0, "top_k": 3, "top_p": 0.4},
    "cache_implementation": {"cache_implementation": "static"},
    "prompt_lookup_num_tokens": {"prompt_lookup_num_tokens": 3},
}


@needs_torch
@pytest.mark.parametrize("name", DECODING)
def test_a_models_settings_of_decoding_do_not_count(name: str, llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama, folder)
    written = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    (folder / "generation_config.json").write_text(json.dumps(written | DECODING[name]), encoding="utf-8")
    plain, other = find_model(str(llama)), find_model(str(folder))
    assert texts(outputs(other, requests(3))) == texts(outputs(plain, requests(3)))
    assert texts(outputs(other, requests(3), temperature=1.0)) == texts(outputs(plain, requests(3), temperature=1.0))
    running = started(other)
    (note,) = running.notes()
    assert all(setting in note for setting in DECODING[name])
    left_out = running.details()["generation_config_not_used"]
    assert left_out.keys() == DECODING[name].keys()
    assert json.loads(json.dumps(left_out)) == left_out
    assert "generation_config_not_used" not in started(plain).details()


@needs_torch
@pytest.mark.parametrize("name", ["repetition_penalty", "suppress_tokens", "sequence_bias", "min_new_tokens"])
def test_settings_of_decoding_can_be_given(name: str, model: Model) -> None:
    arguments = {"override_generation_config": DECODING[name]}
    given = outputs(model, requests(3), arguments=arguments)
    if name != "min_new_tokens":  # a random model hardly ever ends
        assert texts(given) != texts(outputs(model, requests(3)))
    assert engine(model, arguments=arguments).arguments == arguments  # which run.json records
    # The same loaded model serves with and without.
    running, other = started(model, arguments=arguments), engine(model)
    assert other.take_over(running, 4096)
    assert texts(list(other.generate(requests(3)))) == texts(outputs(model, requests(3)))


@needs_torch
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("high", r"override_generation_config=high.* is not a JSON object like"),
        ({"repetition_penality": 1.1}, r"did you mean 'repetition_penalty'"),
        ({"do_sample": True}, r"do_sample=True.* is set by other options"),
        ({"max_new_tokens": 3}, r"max_new_tokens=3.* is set by other options"),
    ],
)
def test_wrong_settings_of_decoding_are_reported(given: object, said: str, model: Model) -> None:
    with pytest.raises(UsageError, match=said):
        engine(model, arguments={"override_generation_config": given}).context()


@needs_torch
def test_the_type_follows_the_processor_and_is_reported(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    shutil.copytree(llama, tmp_path / "half")
    AutoModelForCausalLM.from_pretrained(llama, dtype="bfloat16").save_pretrained(tmp_path / "half")
    half = find_model(str(tmp_path / "half"))
    monkeypatch.setattr("sparse_tasks.evaluators.environment._CPUINFO", tmp_path / "cpuinfo")

    def loaded(model: Model, flags: str, **arguments: Any) -> tuple[str, list[str]]:
        (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
        running = started(model, arguments={"device": "cpu"} | arguments)
        assert {running.details()["dtype"]} == {
            str(p.dtype).removeprefix("torch.") for p in running._model.parameters()
        }
        return running.details()["dtype"], running.notes()

    dtype, (note,) = loaded(half, "avx2")
    assert (dtype, note[:37]) == ("float32", "computes in float32 instead of bfloat")
    assert loaded(half, "avx2", dtype="bfloat16") == ("bfloat16", [])
    assert loaded(half, "avx2 avx512_bf16") == ("bfloat16", [])
    assert loaded(find_model(str(llama)), "avx2") == ("float32", [])


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
def test_wrong_argument_is_reported(model: Model, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        engine(model, arguments=arguments)


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparse_tasks.evaluators.engines.transformers.find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=r"needs torch; in a clone pip install torch, then pip install '\.\[transformers\]'"
    ):
        engine(Model("m", "m"))
