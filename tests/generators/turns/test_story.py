"""Sessions on a story: what they ask, in which order, and what precedes each question."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from sparse_tasks.core.errors import DataError
from sparse_tasks.core.tokenizers import PromptTokenizer, load_tokenizer
from sparse_tasks.core.turns import messages, stem_of
from sparse_tasks.evaluators.scoring import gold_score, score
from sparse_tasks.generators.run import generate_folder
from sparse_tasks.generators.sampling import check_count, make_sample
from sparse_tasks.generators.table import read_rows, shard_bytes
from sparse_tasks.generators.validation import validate_folder
from tests.generators.drafts import context_of, draft_of, fill, task_of
from tests.generators.requests import make_request

NAME = "turns_story"


@pytest.mark.parametrize("form", ["chat", "parallel"])
@pytest.mark.parametrize(
    ("questions", "kinds"), [(2, "mixed"), (6, "mixed"), (20, "mixed"), (6, "facts"), (40, "facts")]
)
def test_each_question_has_its_gold_by_the_oracle(form: str, questions: int, kinds: str) -> None:
    task = task_of(NAME)  # it knows nothing of the sample
    for seed in range(6):
        size = task_of(NAME, questions=questions).smallest() + seed
        draft = fill(draft_of(NAME, seed, size, form=form, questions=questions, kinds=kinds), 2)
        assert len(draft.turns) == questions
        first = draft.turns[0]
        assert (first.question, first.answer, first.answers) == (draft.question, draft.answer, draft.answers)
        for number, turn in enumerate(draft.turns):
            assert turn.history == (number if form == "chat" else 0)
            assert task.verify(context_of(draft) + turn.question, turn.answer, turn.answers) is None
            assert gold_score(turn.metric, turn.answer, turn.answers) == 1.0
            assert turn.marks()
        assert task.audit(context_of(draft) + draft.question) == []


def test_a_chat_tells_no_later_answer() -> None:
    """No two questions have one answer while the story has others, and no two are the same."""
    for seed in range(20):
        draft = draft_of(NAME, seed, 30, questions=6)
        assert max(Counter(turn.answer for turn in draft.turns).values()) == 1
        assert len({turn.question for turn in draft.turns}) == 6


def test_kinds_come_in_any_order() -> None:
    """So that a later question is not a harder one."""
    places = Counter[str]()
    for seed in range(200):
        places.update(draft_of(NAME, seed, 12, questions=2).drawn["kinds"][:1])
    assert len(places) == 8
    assert max(places.values()) < 50


def test_only_facts_are_asked_where_that_is_set() -> None:
    kinds = Counter(draft_of(NAME, 1, 12, questions=9, kinds="facts").drawn["kinds"])
    assert kinds == {"place": 3, "person": 3, "thing": 3}


def test_the_oracle_sees_what_is_wrong_with_a_later_question() -> None:
    draft = draft_of(NAME, 0, 12)
    task, turn = task_of(NAME), draft.turns[1]
    assert "the prompt says" in str(task.verify(context_of(draft) + turn.question, "nobody", ["nobody"]))
    with pytest.raises(DataError):
        task.oracle(context_of(draft) + "The next question is about the same story.\n\nWhy?")


@pytest.mark.parametrize("position", ["both", "after"])
@pytest.mark.parametrize("preset", ["paper", "small"])
@pytest.mark.parametrize(("sort", "template"), [("byte_level", "auto"), ("byte_level", "none"), ("bert", "auto")])
def test_tokens_of_each_prompt_are_counted(
    position: str, preset: str, sort: str, template: str, tokenizer_folders: dict[str, Path]
) -> None:
    tokenizer = load_tokenizer(str(tokenizer_folders[sort]), template)
    request = make_request([12_000], [NAME], question_position=position, preset=preset)
    sample = make_sample(request, tokenizer, request.tasks[0], 12_000, 0)
    begun = preset == "small" and template == "auto"
    beginning = "<answer>\n" if begun else ""
    prefix = sample.answer_prefix.removesuffix(beginning)
    stem = stem_of(sample.prompt, sample.question, prefix)
    assert stem.endswith(sample.context)
    for number, turn in enumerate(sample.turns):
        first, *later = messages(stem, sample.turns, number, prefix)
        assert turn.input_tokens == len(tokenizer.ids(first, beginning, later))
    assert sample.turns[0].input_tokens == sample.input_tokens
    check_count(request, tokenizer, sample)


def test_questions_ahead_of_the_story_are_all_of_them(qwen: PromptTokenizer) -> None:
    request = make_request([6_000], [NAME])
    sample = make_sample(request, qwen, request.tasks[0], 6_000, 0)
    ahead = sample.prompt[: sample.prompt.index(sample.context)]
    for turn in sample.turns:
        assert turn.question.split("\n\n")[1] in ahead
        assert score(turn.metric, f"<answer>{ahead}</answer>", turn.answers).value == 0.0


def test_validate_reads_every_question(tmp_path: Path, tokenizer_folders: dict[str, Path]) -> None:
    name = str(tokenizer_folders["byte_level"])
    request = make_request([9_000], [NAME], samples=1, tokenizer=name, settings={f"{NAME}.questions": 3})
    folder = tmp_path / "data"
    generate_folder(request, load_tokenizer(name), folder)
    assert validate_folder(folder, gold_score=gold_score, tokenizer=name).problems == []
    (path,) = folder.glob("9000/*.parquet")
    row = read_rows(path)[0]
    spoilt = {
        "the stored answer is 'nobody'": ("answer", "nobody"),
        "its input_tokens says 17": ("input_tokens", 17),
        "history is 5, and 1 questions stand before it": ("history", 5),
    }
    for words, (part, value) in spoilt.items():
        changed = json.loads(json.dumps(row))
        changed["turns"][1][part] = value
        problems = validated(folder, path, changed, name)
        assert any("turns[1]" in problem and words in problem for problem in problems), problems
    changed = json.loads(json.dumps(row))
    changed["turns"][0]["answer"] = "nobody"
    assert any(
        "turns[0] is not the sample's own question" in problem for problem in validated(folder, path, changed, name)
    )


def validated(folder: Path, path: Path, row: dict[str, object], tokenizer: str) -> list[str]:
    from sparse_tasks.core.records import convert
    from sparse_tasks.core.sample import Sample

    before = path.read_bytes()
    path.write_bytes(shard_bytes([convert(row, Sample, "row")]))
    try:
        return [
            problem.what for problem in validate_folder(folder, gold_score=gold_score, tokenizer=tokenizer).problems
        ]
    finally:
        path.write_bytes(before)
