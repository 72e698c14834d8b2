"""Blocks of thought: a draft never counts, an answer after them does, and their tokens are counted separately."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Generator, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer

from sparse_tasks.core.beginning import EXPLANATION
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.tokenizers import load_tokenizer
from sparse_tasks.core.tokenizers.template import ChatTemplate
from sparse_tasks.evaluators.answers import extract
from sparse_tasks.evaluators.dataset import Dataset, open_dataset
from sparse_tasks.evaluators.engines.engine import Output, Request
from sparse_tasks.evaluators.predict import RunRequest, predict
from sparse_tasks.evaluators.records import Result
from sparse_tasks.evaluators.results import read_scores, score_run
from sparse_tasks.evaluators.runs import Run
from sparse_tasks.evaluators.thinking import ANY, FAMILIES, Thinking, counted, opened_by
from tests.cli.program import run
from tests.example_tokenizers import CHAT, byte_level
from tests.schemas.validation import problems

Refused = Callable[..., Any]

# What each family of models writes before its draft, and between the draft and its answer.
WRITTEN = {
    "think": ("<think>\n", "\n</think>\n\n"),
    "thinking": ("<thinking>", "</thinking>"),
    "thought": ("<thought>\n", "</thought>"),
    "reasoning": ("<reasoning>", "</reasoning>\n"),
    "seed": ("<seed:think>", "</seed:think>"),
    "longcat": ("<longcat_think>\n", "</longcat_think>\n"),
    "mistral": ("[THINK]", "[/THINK]"),
    "kimi": ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    "cohere": ("<|START_THINKING|>", "<|END_THINKING|>"),
    "open_thoughts": ("<|begin_of_thought|>\n\n", "<|end_of_thought|>\n\n"),
    "gemma": ("<|channel>thought\n", "<channel|>"),
    "harmony": (
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final <|constrain|>text<|message|>",
    ),
    "harmony, stripped": ("analysis", "assistantfinal"),
    "harmony, a tool": (
        "<|channel|>commentary to=f<|message|>",
        "<|call|><|start|>assistant<|channel|>final<|message|>",
    ),
}
DRAFTS = ["<answer>45</answer>", "\\boxed{45}", "<answer>45", "Say <answer>45</answer>? Or <answer>44</answer>?"]


def test_every_family_is_tried() -> None:
    assert set(FAMILIES) == {name.partition(",")[0] for name in WRITTEN}


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("family", WRITTEN)
def test_a_draft_never_counts_and_what_follows_does(family: str, draft: str) -> None:
    start, end = WRITTEN[family]
    # A mark that counts at the start of an output does so whatever the prompt began.
    for before, prefix in product(("", "\n"), ("", EXPLANATION)):
        for text in (f"{before}{start}{draft}", f"{before}{start}{draft}{end}", f"{before}{start}{draft}{end}Hm."):
            assert extract(text, before=prefix) is None, text
        assert extract(f"{before}{start}{draft}{end}<answer>46</answer>", before=prefix) == "46"
        assert extract(f"{before}{start}{end}<answer>46</answer>", before=prefix) == "46"
    # The template wrote the opening mark.
    assert extract(f"{draft}{end}<answer>46</answer>") == "46"
    assert extract(f"{draft}{end}Hm.") is None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_block_that_the_prompt_opened_and_nothing_closes_holds_no_answer(family: str) -> None:
    end = WRITTEN[family][1]
    for opened in (family, ANY):
        thinking = Thinking(opened=opened)
        for draft in DRAFTS:
            assert extract(draft, thinking=thinking) is None
            assert thinking.unfinished(draft)
            assert extract(f"{draft}{end}<answer>46</answer>", thinking=thinking) == "46"
            assert not thinking.unfinished(f"{draft}{end}")


def test_only_marks_of_its_own_family_end_a_block() -> None:
    draw = random.Random(0)
    for family, (start, end) in WRITTEN.items():
        for _ in range(20):
            others = [name for name in WRITTEN if name.partition(",")[0] != family.partition(",")[0]]
            inside = " so ".join(mark for name in draw.sample(others, 3) for mark in WRITTEN[name])
            draft = f"{inside} <answer>45</answer> {inside}".removeprefix("analysis")
            assert extract(start + draft) is None
            assert extract(f"{start}{draft}{end}<answer>46</answer>") == "46"
            if "," not in family:
                assert extract(draft, thinking=Thinking(opened=family)) is None


@pytest.mark.parametrize(
    "said",
    [
        "I gave it between <answer> and </answer>.",
        "I gave it between `<answer>` and `</answer>`.",
        'Between the "<answer>" tag and the closing "</answer>" tag.',
        "As told, in <answer></answer> tags.",
        "The form is <answer>...</answer>, or <answer>your answer here</answer>.",
        "It stands in <answer> tags.",
        "I wrote <think> before.",
        "I closed `</think>` before.",
        "[THINK] <reasoning>",
    ],
)
def test_mentions_of_marks_after_the_answer_change_nothing(said: str) -> None:
    assert extract(f"So.\n<answer>46</answer>\n{said}") == "46"
    assert extract(f"<think>45?</think><answer>46</answer> {said}") == "46"


def test_mentions_of_tags_and_retracted_answers_do_not_count() -> None:
    assert extract("I will put it between <answer> and </answer>.") is None
    assert extract("<answer>46</answer> I am not sure. <answer></answer>") is None
    assert extract("<answer>and</answer><answer>answer</answer>") == "answer"


def test_ends_of_messages_end_no_thought_where_there_was_none() -> None:
    assert extract("<answer>46</answer><|end|>") == "46"
    assert extract("<|channel|>final<|message|><answer>46</answer><|return|>") == "46"


def test_tags_may_be_named_and_own_ones_given(refused: Refused) -> None:
    text = "<plan>{}</plan><answer>46</answer>".format
    assert extract("<plan><answer>45</answer>", thinking=Thinking.of(["<plan> </plan>"])) is None
    assert extract(text("<answer>45"), thinking=Thinking.of(["think", "<plan> </plan>"])) == "46"
    assert extract("<think><answer>45</answer>", thinking=Thinking.of(["mistral"])) == "45"
    assert Thinking.of([]).tags == Thinking.of(["all"]).tags == tuple(FAMILIES)
    for wrong in ("thnik", "<plan>", "a b c", "<a> <a>"):
        with refused(UsageError, f"thinking-tags: {wrong!r}", "two marks"):
            Thinking.of([wrong])
    with refused(UsageError, "thinking-budget: 0 must be at least 1"):
        Thinking.of([], budget=0)


def test_hostile_outputs_take_linear_time() -> None:
    """Quadratic time would be felt."""
    for piece in [mark for marks in WRITTEN.values() for mark in marks] + [
        "<",
        "<think",
        "<|channel|>final",
        " ",
        "<answer>a",
    ]:
        text = piece * (30_000 // len(piece))
        for output in (text, f"<think>{text}", f"{text}<answer> and </answer>"):
            extract(output)
            extract(output, thinking=Thinking(opened=ANY))


# --- prompts ------------------------------------------------------------------------------------------------

ENDS = {
    "": None,
    "<think>\n": "think",
    "<think>\n\n</think>\n\n": None,
    "[THINK]": "mistral",
    "<seed:think>": "seed",
    "<|start|>assistant": None,
    "<|start|>assistant<|channel|>analysis<|message|>": "harmony",
    "<|channel>thought\n<channel|>": None,
}


@pytest.mark.parametrize(("end", "opened"), ENDS.items())
def test_a_template_that_opens_a_block_is_known_by_its_rendering(end: str, opened: str | None) -> None:
    # A system message that explains the marks opens nothing.
    source = (
        "Think in <think> or [THINK]. {{ messages[0].content }}{% if add_generation_prompt %}" + end + "{% endif %}"
    )
    assert opened_by(ChatTemplate(source), Thinking().tags) == opened


# --- runs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def opening(tmp_path: Path) -> Path:
    """A chat template that opens a block of thought."""
    path = tmp_path / "opening.jinja"
    path.write_text(CHAT.replace("[assistant]{% endif", "[assistant]<think>\n{% endif"))
    return path


def answered(folder: Path, dataset: Dataset, model: Path, **more: Any) -> Result:
    engine = more.pop("engine", "fake")
    with Run(folder) as opened:
        predict(RunRequest(dataset, dataset.select(), str(model), engine, **more), opened)
        return score_run(opened, dataset)


def settings_of(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((folder / "run.json").read_bytes())
    assert problems(settings, "run-1.0") == []
    return settings


def test_the_engines_prompt_says_whether_a_draft_is_one(
    tmp_path: Path, dataset: Dataset, model: Path, fake: Any, opening: Path
) -> None:
    fake.fields = {"finish_reason": "length", "output_tokens": 7}
    plain = answered(tmp_path / "plain", dataset, model)
    assert {config.mean for config in plain.configs} == {1.0}
    assert settings_of(tmp_path / "plain")["thinking"] == {"tags": list(FAMILIES), "opened": None, "budget": None}

    drafts = answered(tmp_path / "drafts", dataset, model, chat_template=str(opening))
    for config in drafts.configs:
        assert (config.mean, config.unparsed, config.cut_thinking) == (0.0, 1.0, 1.0)
    assert settings_of(tmp_path / "drafts")["thinking"]["opened"] == "think"

    fake.texts = {identifier: f"<answer>no</answer></think>\n{text}" for identifier, text in fake.texts.items()}
    finals = answered(tmp_path / "finals", dataset, model, chat_template=str(opening))
    for config in finals.configs:
        assert (config.mean, config.unparsed, config.cut_thinking) == (1.0, 0.0, 0.0)


def test_a_begun_answer_is_no_thought(tmp_path: Path, dataset: Dataset, model: Path, fake: Any, opening: Path) -> None:
    fake.texts = {identifier: text.removeprefix("<answer>") for identifier, text in fake.texts.items()}
    result = answered(tmp_path / "run", dataset, model, chat_template=str(opening), begin_answer=True)
    assert {config.mean for config in result.configs} == {1.0}


def test_contradictions_of_the_template_are_refused(
    tmp_path: Path, dataset: Dataset, model: Path, fake: Any, opening: Path, refused: Refused
) -> None:
    with refused(UsageError, "thinking: 'open' contradicts the chat template, which opens no block"):
        answered(tmp_path / "open", dataset, model, thinking="open")
    with refused(UsageError, "thinking: 'closed' contradicts the chat template, which opens a block (think)"):
        answered(tmp_path / "closed", dataset, model, thinking="closed", chat_template=str(opening))
    with refused(UsageError, "thinking: 'opne' is unknown; did you mean 'open'?"):
        answered(tmp_path / "typo", dataset, model, thinking="opne")


def test_replayed_outputs_learn_it_from_the_data_set_or_the_user(
    tmp_path: Path, data: Path, model: Path, gold: dict[str, str], outputs: Any, opening: Path
) -> None:
    made = tmp_path / "made"
    arguments = ["-l", "1100", "-t", "ruler_vt", "-n", "2", "-w", "1", "--tokenizer", model]
    assert run("generate", *arguments, "--chat-template", opening, "-o", made).code == 0
    rows = list(open_dataset(str(made)).rows(open_dataset(str(made)).select()))
    file = outputs({row["id"]: f"<answer>{row['answer']}</answer>" for row in rows}, "made.jsonl")
    command = ["evaluate", made, "--engine", "replay", "-m", file, "--format", "json"]
    assert run(*command, "-o", tmp_path / "auto").json()["configs"][0]["unparsed"] == 1.0
    assert settings_of(tmp_path / "auto")["thinking"]["opened"] == "think"
    assert run(*command, "--thinking", "closed", "-o", tmp_path / "closed").json()["configs"][0]["mean"] == 1.0
    assert settings_of(tmp_path / "closed")["thinking"]["opened"] is None

    command = ["evaluate", data, "--engine", "replay", "-m", outputs(gold), "--format", "json"]
    assert run(*command, "-o", tmp_path / "gold").json()["configs"][0]["mean"] == 1.0
    done = run(*command, "--thinking", "open", "-o", tmp_path / "open")
    assert done.json()["configs"][0]["unparsed"] == 1.0
    assert settings_of(tmp_path / "open")["thinking"]["opened"] == ANY
    again = run("score", tmp_path / "open", "--format", "json")
    assert again.json()["configs"] == done.json()["configs"]
    tagged = outputs({name: f"<plan>{text}" for name, text in gold.items()}, "plans.jsonl")
    command = ["evaluate", data, "--engine", "replay", "-m", tagged, "--format", "json"]
    assert run(*command, "-o", tmp_path / "unknown").json()["configs"][0]["mean"] == 1.0
    known = run(*command, "--thinking-tags", "<plan> </plan>", "-o", tmp_path / "known")
    assert known.json()["configs"][0]["unparsed"] == 1.0
    assert settings_of(tmp_path / "known")["thinking"]["tags"] == ["<plan> </plan>"]


@pytest.mark.parametrize("family", WRITTEN)
def test_a_draft_after_a_bare_prompt_never_counts(family: str, tmp_path: Path, model: Path, outputs: Any) -> None:
    """A bare prompt begins the explanation, which is prepended for scoring."""
    made, (start, end) = tmp_path / "bare", WRITTEN[family]
    arguments = ["-l", "1100", "-t", "ruler_vt", "-n", "2", "-w", "1", "--tokenizer", model]
    assert run("generate", *arguments, "--chat-template", "none", "-o", made).code == 0
    rows = list(open_dataset(str(made)).rows(open_dataset(str(made)).select()))
    assert {row["answer_prefix"] for row in rows} == {EXPLANATION}
    for name, rest, mean in (("draft", "", 0.0), ("final", "{end}<answer>{answer}</answer>", 1.0)):
        texts = {
            row["id"]: f"{start}We need... <answer>{row['answer']}</answer>" + rest.format(end=end, **row)
            for row in rows
        }
        command = ["evaluate", made, "--engine", "replay", "-m", outputs(texts, f"{name}.jsonl"), "--format", "json"]
        config = run(*command, "-o", tmp_path / name).json()["configs"][0]
        assert (config["mean"], config["unparsed"]) == (mean, 1.0 - mean)


# --- tokens -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def special() -> Tokenizer:
    """A tokenizer whose marks of thought are special tokens, which decoding leaves out."""
    tokenizer = Tokenizer.from_str(byte_level().to_str())
    marks = ["[THINK]", "[/THINK]", "<|end|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    return tokenizer


def ids(tokenizer: Tokenizer, *texts: str) -> list[int]:
    return [token for text in texts for token in tokenizer.encode(text, add_special_tokens=False).ids]


def test_marks_that_are_special_tokens_are_kept_in_the_text_and_others_are_not(special: Tokenizer) -> None:
    written = ids(special, "[THINK]", "It is <answer>45</answer>?", "[/THINK]", "<answer>46</answer>", "<|im_end|>")
    text = special.decode(written)
    assert "THINK" not in text
    found = counted(text, written, special, Thinking(), 100)
    assert found.text == "[THINK]It is <answer>45</answer>?[/THINK]<answer>46</answer>"
    assert extract(found.text) == "46"
    assert found.thinking == len(ids(special, "[THINK]", "It is <answer>45</answer>?", "[/THINK]"))
    assert (found.tokens, found.cut) == (len(written), False)
    # Without such a mark the text is the engine's.
    plain = ids(special, "<answer>46</answer>", "<|end|>")
    assert counted("as it came", plain, special, Thinking(), 100).text == "as it came"


@pytest.mark.parametrize("opened", [None, "think"])
def test_tokens_of_thought_and_of_answers_are_counted_apart(special: Tokenizer, opened: str | None) -> None:
    draw = random.Random(1)
    words = ["the", "chapter", "caf\u00e9", "\u6771\u4eac", "\u2014", "small", "brass", "46", "\U0001f600"]
    for _ in range(30):
        # Parts are encoded each by itself, so that no token reaches over an edge.
        thoughts = ids(special, " ".join(draw.choices(words, k=draw.randrange(1, 30))))
        said = ids(special, "\n" + " ".join(draw.choices(words, k=draw.randrange(1, 30))))
        start, end = ids(special, "" if opened else "<think>"), ids(special, "</think>")
        block = [*start, *thoughts, *end]
        found = counted(special.decode(block + said), block + said, special, Thinking(opened=opened), 1000)
        assert (found.thinking, found.tokens) == (len(block), len(block + said))
        cut_short = counted("", [*start, *thoughts], special, Thinking(opened=opened), 1000)
        assert cut_short.thinking == len(start) + len(thoughts)
        none = counted("", said, special, Thinking(), 1000)
        assert none.thinking == 0


def test_each_kind_of_token_has_its_own_budget(special: Tokenizer) -> None:
    block, said = ids(special, "<think>", "one two three four", "</think>"), ids(special, "five six seven eight nine")
    whole = special.decode(block + said)

    def held(thought: int | None, answer: int) -> tuple[int, int, bool]:
        found = counted(whole, block + said, special, Thinking(budget=thought), answer)
        assert found.text == special.decode((block + said)[: found.tokens])
        return found.tokens, found.thinking, found.cut

    assert held(None, 1) == (len(block + said), len(block), False)
    assert held(len(block), len(said)) == (len(block + said), len(block), False)
    assert held(len(block) - 1, 100) == (len(block) - 1, len(block) - 1, True)
    assert held(1000, len(said) - 1) == (len(block + said) - 1, len(block), True)


def test_the_columns_of_a_run_that_thinks(
    tmp_path: Path, dataset: Dataset, model: Path, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = load_tokenizer(str(model)).backend
    thought, budget = "<think>" + "so be it " * 10 + "</think>", 60

    def generate(self: Any, requests: Iterable[Request]) -> Generator[Output, None, None]:
        for number, request in enumerate(requests):
            self.asked.append(request)
            long = "<think>" + "so be it " * 100 if number % 4 == 3 else thought
            written = ids(backend, long, self.texts[request.id])[: request.max_new_tokens]
            finish = "length" if len(written) == request.max_new_tokens else "stop"
            yield Output(request.id, backend.decode(written), finish, len(request.ids), len(written), ids=written)

    monkeypatch.setattr(fake, "generate", generate)
    result = answered(tmp_path / "run", dataset, model, thinking_budget=budget)
    for request in fake.asked:
        sample = next(row for row in dataset.rows(dataset.select()) if row["id"] == request.id)
        assert request.max_new_tokens == sample["max_new_tokens"] + budget
    assert settings_of(tmp_path / "run")["thinking"]["budget"] == budget
    tokens = len(ids(backend, thought))
    for config in result.configs:
        assert (config.mean, config.unparsed, config.truncated, config.cut_thinking) == (0.75, 0.25, 0.25, 0.25)
        assert config.thinking_tokens == (3 * tokens + budget) / 4
        assert config.answer_tokens is not None
        assert config.output_tokens is not None
        assert config.thinking_tokens + config.answer_tokens == pytest.approx(config.output_tokens)
    for row in read_scores(tmp_path / "run"):
        assert row.cut_thinking is (row.thinking_tokens == budget)
        assert (row.answer_tokens == 0) is row.cut_thinking
    lines = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert [problems(line, "prediction-1.0") for line in lines] == [[]] * len(lines)
    assert {line["thinking_tokens"] for line in lines} == {tokens, budget}
    reported = run("score", tmp_path / "run").out
    assert "cut off thinking" in reported
    assert any(
        line.split()[-3:][0] == f"{(3 * tokens + budget) / 4:,.0f}" for line in reported.splitlines() if line.strip()
    )
