"""Several questions on one context: prompts, one prediction a sample, scores by question, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.attention.attention import Attention
from sparse_tasks.core.errors import EngineError, UsageError
from sparse_tasks.core.tokenizers import load_tokenizer
from sparse_tasks.evaluators.dataset import Dataset, open_dataset
from sparse_tasks.evaluators.engines.engine import Output, Request, Upcoming, joined
from sparse_tasks.evaluators.engines.group import _Shares
from sparse_tasks.evaluators.predict import RunRequest, predict
from sparse_tasks.evaluators.records import Result
from sparse_tasks.evaluators.results import read_scores, score_run
from sparse_tasks.evaluators.runs import Run
from sparse_tasks.generators.run import generate_folder
from tests.generators.requests import make_request
from tests.schemas.validation import problems

Refused = Callable[..., Any]
SET = {"questions": 3, "kinds": "facts", "events": 2, "gifts": 1, "distractors": 0}


@pytest.fixture(scope="module")
def sessions(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """Three questions on each of two stories, as a chat and each by itself."""
    made = {}
    for form in ("chat", "parallel"):
        folder = tmp_path_factory.mktemp("sessions") / form
        settings = {f"turns_story.{name}": value for name, value in (SET | {"form": form}).items()}
        request = make_request(["4500"], ["turns_story"], 2, tokenizer=str(model), question_position="after",
                               settings=settings)  # fmt: skip
        generate_folder(request, load_tokenizer(str(model)), folder)
        made[form] = open_dataset(str(folder))
    return made


@pytest.fixture
def chat(sessions: dict[str, Dataset]) -> Dataset:
    return sessions["chat"]


@pytest.fixture
def able(fake: Any, sessions: dict[str, Dataset]) -> Any:
    """The fake, which knows all answers."""
    fake.compresses_contexts = fake.runs_methods = True
    fake.texts = {
        row["id"] + (f"#{number}" if number > 1 else ""): f"<answer>{turn['answer']}</answer>"
        for dataset in sessions.values()
        for row in dataset.rows(dataset.select())
        for number, turn in enumerate(row["turns"], 1)
    }
    return fake


def answered(folder: Path, dataset: Dataset, model: Path, **options: Any) -> Result:
    with Run(folder) as opened:
        predict(RunRequest(dataset, dataset.select(), str(model), "fake", **({"max_new_tokens": 20} | options)), opened)
        return score_run(opened, dataset)


# --- prompts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["auto", "none"])
@pytest.mark.parametrize("begin_answer", [False, True])
def test_a_chat_holds_earlier_questions_with_their_gold_answers(
    tmp_path: Path, chat: Dataset, model: Path, able: Any, template: str, begin_answer: bool
) -> None:
    answered(tmp_path / "run", chat, model, chat_template=template, begin_answer=begin_answer)
    tokenizer = load_tokenizer(str(model), template)
    row = next(chat.rows(chat.select()))
    texts = [tokenizer.backend.decode(request.ids, skip_special_tokens=False) for request in able.asked[:3]]
    assert [request.id for request in able.asked[:3]] == [row["id"], f"{row['id']}#2", f"{row['id']}#3"]
    for number, text in enumerate(texts):
        assert text.count(row["context"]) == 1
        for other, turn in enumerate(row["turns"]):
            assert text.count(turn["question"]) == (other <= number)
            assert text.count(f"<answer>\n{turn['answer']}\n</answer>") == (other < number)
        assert text.endswith("<answer>\n") == begin_answer
    # Fixed parts are at the same place in all of them.
    assert all(text.startswith(texts[0][: texts[0].index(row["question"])]) for text in texts)


def test_parallel_questions_stand_alone(tmp_path: Path, sessions: dict[str, Dataset], model: Path, able: Any) -> None:
    dataset = sessions["parallel"]
    answered(tmp_path / "run", dataset, model)
    row = next(dataset.rows(dataset.select()))
    for request, turn in zip(able.asked[:3], row["turns"], strict=True):
        assert (request.prompt, request.later) == (row["context"] + turn["question"], ())
        assert len(request.ids) == turn["input_tokens"]


def test_kept_tokens_are_chosen_once_in_a_chat(
    tmp_path: Path, sessions: dict[str, Dataset], model: Path, able: Any
) -> None:
    attention = Attention.parse("snapkv", sparsity=0.5)
    tokenizer = load_tokenizer(str(model))
    for form, compress in (("chat", "prompt"), ("chat", "context"), ("parallel", "prompt"), ("parallel", "context")):
        able.asked.clear()
        answered(tmp_path / form / compress, sessions[form], model, attention=attention, compress=compress)
        first, *later = able.asked[:3]
        row = next(sessions[form].rows(sessions[form].select()))
        if compress == "context":
            assert len({request.context for request in able.asked[:3]}) == 1
            assert tokenizer.backend.decode(first.ids[: first.context]).endswith(row["context"][-20:])
        elif form == "parallel":
            assert {request.context for request in able.asked} == {None}
        else:
            assert first.context is None
            assert [request.context for request in later] == [len(first.ids)] * 2
            assert all(request.ids[: len(first.ids)] == first.ids for request in later)


# --- predictions and scores ---------------------------------------------------------------------------------


def test_a_prediction_holds_all_answers_and_scores_their_mean(
    tmp_path: Path, chat: Dataset, model: Path, able: Any
) -> None:
    rows = list(chat.rows(chat.select()))
    able.texts[f"{rows[0]['id']}#3"] = "<answer>nobody</answer>"
    able.texts[f"{rows[1]['id']}#3"] = "I do not know."
    result = answered(tmp_path / "run", chat, model)
    lines = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [row["id"] for row in rows]
    for line, row in zip(lines, rows, strict=True):
        assert problems(line, "prediction-1.0") == []
        assert [turn["input_tokens"] for turn in line["turns"]] == [turn["input_tokens"] for turn in row["turns"]]
        assert (line["input_tokens"], line["output_tokens"]) == (row["input_tokens"], 21)
        assert line["text"] == "\n\n".join(turn["text"] for turn in line["turns"])
    scores = read_scores(tmp_path / "run")
    assert [score.turns for score in scores] == [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]
    assert [score.score for score in scores] == pytest.approx([2 / 3, 2 / 3])
    assert [score.parsed for score in scores] == [True, False]
    (config,) = result.configs
    assert [(turn.turn, turn.n, turn.mean) for turn in config.turns or ()] == [(1, 2, 1.0), (2, 2, 1.0), (3, 2, 0.0)]
    assert config.later
    assert (config.later.difference, config.later.p_value) == (-1.0, 0.5)
    content = json.loads((tmp_path / "run" / "result.json").read_bytes())
    assert problems(content, "result-1.0") == []


def test_a_run_resumes_with_whole_samples(tmp_path: Path, chat: Dataset, model: Path, able: Any) -> None:
    answered(tmp_path / "whole", chat, model)
    able.fails_after = 4
    with pytest.raises(EngineError):
        answered(tmp_path / "run", chat, model)
    assert len((tmp_path / "run" / "predictions.jsonl").read_text().splitlines()) == 1
    able.fails_after, able.backwards = None, True
    able.asked.clear()
    answered(tmp_path / "run", chat, model)
    assert len(able.asked) == 3
    files = [(tmp_path / name / "predictions.jsonl").read_bytes() for name in ("whole", "run")]
    assert files[0] == files[1]


def test_a_missing_answer_is_noticed(tmp_path: Path, chat: Dataset, model: Path, able: Any) -> None:
    able.ends_after = 5
    with pytest.raises(EngineError, match=r"left out 1 of 6 answers, .*#3 first"):
        answered(tmp_path / "run", chat, model)


def test_the_longest_prompt_must_fit(tmp_path: Path, chat: Dataset, model: Path, able: Any, refused: Refused) -> None:
    longest = max(turn["input_tokens"] for row in chat.rows(chat.select()) for turn in row["turns"])
    able.limit = longest + 20
    answered(tmp_path / "fits", chat, model)
    able.limit -= 1
    with refused(UsageError, "is too long for the model"):
        answered(tmp_path / "run", chat, model)


def test_chats_are_refused_where_a_method_would_choose_anew(
    tmp_path: Path, sessions: dict[str, Dataset], model: Path, able: Any, refused: Refused
) -> None:
    attention = Attention.parse("snapkv_blocks", sparsity=0.5)
    with refused(UsageError, "dataset: 'chats' does not go with snapkv_blocks, which chooses once all layers"):
        answered(tmp_path / "run", sessions["chat"], model, attention=attention)
    able.compresses_contexts = False
    attention = Attention.parse("snapkv", sparsity=0.5)
    with refused(UsageError, "a method that evicts would choose again", "transformers", "form=parallel"):
        answered(tmp_path / "run", sessions["chat"], model, attention=attention)
    answered(tmp_path / "parallel", sessions["parallel"], model, attention=attention)
    answered(tmp_path / "quest", sessions["chat"], model, attention=Attention.parse("quest", sparsity=0.5))


# --- engines ------------------------------------------------------------------------------------------------


def request(session: str, number: int, questions: int = 3) -> Request:
    name = session if number == 1 else f"{session}#{number}"
    return Request(name, "", [0] * 10, 1, session=session if questions > 1 else "", questions=questions)


def test_later_questions_wait_for_the_first_answer() -> None:
    asked = [request("a", 1), request("a", 2), request("a", 3), request("b", 1, 1), request("c", 1), request("c", 2)]
    upcoming = Upcoming(asked)
    taken = [upcoming.take(), upcoming.take(), upcoming.take(), upcoming.take()]
    assert [one.id if one else None for one in taken] == ["a", "b", "c", None]
    assert upcoming.tokens == 30
    assert not upcoming.answered(asked[3])
    assert upcoming.take() is None
    assert not upcoming.answered(asked[0])
    assert [upcoming.take(), upcoming.take(), upcoming.take()] == [asked[1], asked[2], None]
    assert upcoming.tokens == 10
    assert [upcoming.answered(asked[2]), upcoming.answered(asked[1])] == [False, True]


def test_parallel_engines_get_whole_sessions() -> None:
    asked = [request(name, number) for name in "abc" for number in (1, 2, 3)]
    shares = _Shares(asked, 2)
    shared = [[], []]  # type: list[list[str]]
    for engine in (0, 1):
        while (one := shares._next(engine)) is not None:
            shared[engine].append(one.session)
    assert shared == [["a"] * 3 + ["c"] * 3, ["b"] * 3]


def test_a_joined_output_sums_up() -> None:
    parts: list[dict[str, Any]] = [
        {"sparsity": {"prefill": 0.5, "decode": 0.2}, "seconds": 2.0, "kv_bytes_per_step": 10.0},
        {"sparsity": {"prefill": 0.0, "decode": 0.4}, "seconds": 1.0, "kv_bytes_per_step": 30.0},
    ]
    outputs = [Output(f"a#{i}", "x", "stop", 9 + i, 3, **part) for i, part in enumerate(parts)]
    whole = joined(outputs)
    assert whole.sparsity == {"prefill": 0.5, "decode": pytest.approx(0.3)}
    assert (whole.input_tokens, whole.output_tokens, whole.seconds, whole.kv_bytes_per_step) == (9, 6, 3.0, 20.0)
    assert whole.turns == outputs
    assert joined(outputs[:1]) is outputs[0]
