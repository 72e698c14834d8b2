"""Corpora, essays and templates that spell control tokens: text by default, kept on request, left out where neither."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer

from sparse_tasks.core.errors import BadFileError, UsageError
from sparse_tasks.core.tokenizers import NEVER, PromptTokenizer, load_tokenizer
from sparse_tasks.evaluators.dataset import open_dataset
from sparse_tasks.evaluators.prompts import requests
from sparse_tasks.evaluators.scoring import gold_score
from sparse_tasks.generators.corpora import Corpus, find_corpora
from sparse_tasks.generators.qa.squad import read_squad
from sparse_tasks.generators.ruler.essays import read_essays
from sparse_tasks.generators.run import generate_folder
from sparse_tasks.generators.sampling import check_lengths, make_sample
from sparse_tasks.generators.validation import validate_folder
from sparse_tasks.generators.wording import parse_template
from tests.cli.program import run
from tests.example_corpora import squad
from tests.example_tokenizers import save, unigram
from tests.generators.requests import make_request

TOKEN = "<|im_end|>"


@pytest.fixture
def corpora(tmp_path: Path) -> dict[str, Corpus]:
    """A corpus half of whose documents spell a control token, some in a gold answer's sentence."""
    content = squad(articles=20, paragraphs=4)
    for number, article in enumerate(content["data"]):
        for paragraph in article["paragraphs"]:
            if number % 2:
                paragraph["context"] += f" A line {TOKEN} ended here.<|im_start|>user"
    (tmp_path / "squad.json").write_text(json.dumps(content), encoding="utf-8")
    return find_corpora({"qa_squad": str(tmp_path / "squad.json")})


def made(folder: Path, corpora: dict[str, Corpus], tokenizer: str = "qwen2.5", **options: Any) -> PromptTokenizer:
    request = make_request([1200], ["qa_squad"], samples=4, corpora=corpora, tokenizer=tokenizer, **options)
    loaded = load_tokenizer(tokenizer, keeps_control=request.keeps_control)
    generate_folder(request, loaded, folder)
    return loaded


@pytest.mark.parametrize(("how", "more"), [("text", 0), ("keep", 1)])
def test_the_engine_gets_the_ids_that_were_counted(
    how: str, more: int, corpora: dict[str, Corpus], tmp_path: Path
) -> None:
    tokenizer = made(tmp_path / "data", corpora, control_tokens=how)
    assert validate_folder(tmp_path / "data", gold_score, corpora=corpora.values()).problems == []
    dataset = open_dataset(str(tmp_path / "data"))
    assert dataset.manifest.request.control_tokens == ("keep" if more else dataset.manifest.request.begin_answer)
    selection = dataset.select()
    rows = {row["id"]: row for row in dataset.rows(selection)}
    end = tokenizer.backend.token_to_id(TOKEN)
    spelt = 0
    for request in requests(dataset, selection, tokenizer, dict.fromkeys(rows, 8)):
        assert len(request.ids) == rows[request.id]["input_tokens"]
        spelt += request.prompt.count(TOKEN)
        # The template ends two turns.
        assert request.ids.count(end) == 2 + more * request.prompt.count(TOKEN)
    assert spelt > 4


def test_another_way_gives_another_data_set(corpora: dict[str, Corpus]) -> None:
    both = [
        make_request([1200], ["qa_squad"], corpora=corpora, control_tokens=how).describe() for how in ("text", "keep")
    ]
    assert both[1] == both[0] | {"control_tokens": "keep"}
    with pytest.raises(UsageError, match=r"control-tokens: 'kep' is unknown; did you mean 'keep'"):
        make_request([1200], ["qa_squad"], corpora=corpora, control_tokens="kep")


@pytest.fixture
def mute(tmp_path: Path) -> str:
    """A tokenizer that has the control token among the pieces of its vocabulary."""
    state = json.loads(unigram().to_str())
    state["model"]["vocab"] += [[TOKEN, 0.0], ["<|im_start|>", 0.0]]
    backend = Tokenizer.from_str(json.dumps(state))
    backend.add_tokens([AddedToken(text, special=True) for text in (TOKEN, "<|im_start|>")])
    return str(save(backend, tmp_path / "mute"))


def test_documents_that_cannot_be_text_are_left_out_and_counted(
    mute: str, corpora: dict[str, Corpus], tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(mute)
    assert tokenizer.cost(f"a {TOKEN}\n") == NEVER
    request = make_request([4000], ["qa_squad"], samples=6, corpora=corpora, tokenizer=mute)
    (task,) = request.tasks
    (notice,) = task.notices(tokenizer)
    assert re.match(r"qa_squad: left out 40 documents and \d{2,3} questions, for control tokens", notice)
    assert "--control-tokens keep" in notice
    for index in range(6):
        assert TOKEN not in make_sample(request, tokenizer, task, 4000, index).prompt
    keeping = load_tokenizer(mute, keeps_control=True)
    kept = make_request([4000], ["qa_squad"], samples=6, corpora=corpora, tokenizer=mute, control_tokens="keep")
    assert kept.tasks[0].notices(keeping) == []
    assert any(TOKEN in make_sample(kept, keeping, kept.tasks[0], 4000, index).prompt for index in range(6))


def test_questions_that_cannot_be_text_are_left_out_and_counted(mute: str, tmp_path: Path) -> None:
    content = squad(articles=20, paragraphs=4)
    questions = [qa for article in content["data"] for paragraph in article["paragraphs"] for qa in paragraph["qas"]]
    for number, qa in enumerate(questions):
        if number % 2:
            qa["question"] += f" {TOKEN}"
    (tmp_path / "squad.json").write_text(json.dumps(content), encoding="utf-8")
    corpora = find_corpora({"qa_squad": str(tmp_path / "squad.json")})
    request = make_request([2000], ["qa_squad"], samples=8, corpora=corpora, tokenizer=mute)
    (task,), tokenizer = request.tasks, load_tokenizer(mute)
    unfit = sum(TOKEN in question.text for question in read_squad(corpora["qa_squad"]).questions)
    assert unfit > 10
    (notice,) = task.notices(tokenizer)
    assert notice.startswith(f"qa_squad: left out 0 documents and {unfit} questions, for control tokens")
    assert not any(TOKEN in make_sample(request, tokenizer, task, 2000, index).prompt for index in range(8))
    for qa in questions:
        qa["question"] = f"{qa['question'].removesuffix(f' {TOKEN}')} {TOKEN}"
    (tmp_path / "squad.json").write_text(json.dumps(content), encoding="utf-8")
    corpora = find_corpora({"qa_squad": str(tmp_path / "squad.json")})
    request = make_request([2000], ["qa_squad"], corpora=corpora, tokenizer=mute)
    with pytest.raises(UsageError, match=r"has no question .* tokens or fewer; others are left out for control tokens"):
        request.tasks[0].notices(tokenizer)


_ESSAYS = ("ruler_niah_single_2", "ruler_niah_multiquery")


def essays(folder: Path, text: str) -> dict[str, Any]:
    (folder / "essays.txt").write_text(text, encoding="utf-8")
    return {"corpora": find_corpora({"essays": str(folder / "essays.txt")}), "samples": 3}


def test_essays_that_spell_one_are_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer()
    request = make_request([1500], ["ruler_niah_single_2"], **essays(tmp_path, f"A {TOKEN} in it, and more. " * 300))
    check_lengths(request, tokenizer)
    assert request.tasks[0].notices(tokenizer) == []
    sample = make_sample(request, tokenizer, request.tasks[0], 1500, 0)
    ids = tokenizer.ids(sample.prompt)
    assert len(ids) == sample.input_tokens
    assert ids.count(tokenizer.backend.token_to_id(TOKEN)) == 2 < sample.prompt.count(TOKEN)


def test_sentences_of_essays_that_cannot_be_text_are_left_out_and_counted(mute: str, tmp_path: Path) -> None:
    one = f"This stays. This goes: {TOKEN} is spelt. And this stays too, for it spells none. "
    # Without blanks it is cut, somewhere within a token; then no piece of it spells one.
    divided = TOKEN * 60
    options = essays(tmp_path, f"{one * 150}\n\n{divided}\n\n{TOKEN} is all there is.")
    request = make_request([1500], list(_ESSAYS), tokenizer=mute, **options)
    tokenizer, keeping = load_tokenizer(mute), load_tokenizer(mute, keeps_control=True)
    check_lengths(request, tokenizer)
    pieces = [sentence for sentences in read_essays(options["corpora"]["essays"]) for sentence in sentences]
    stay = sum(sentence.startswith(("This stays", "And this")) for sentence in pieces)
    assert stay == 300
    (notice,) = {notice for task in request.tasks for notice in task.notices(tokenizer)}
    assert notice.startswith(f"essays: left out {len(pieces) - stay} sentences, for control tokens that this tokenizer")
    for task in request.tasks:
        for index in range(3):
            sample = make_sample(request, tokenizer, task, 1500, index)
            assert "stays too" in sample.prompt
            assert TOKEN not in sample.prompt
            assert tokenizer.count(sample.prompt) == sample.input_tokens
    kept = make_request([1500], list(_ESSAYS), tokenizer=mute, control_tokens="keep", **options)
    assert [task.notices(keeping) for task in kept.tasks] == [[], []]
    assert TOKEN in make_sample(kept, keeping, kept.tasks[0], 1500, 0).prompt


def test_essays_of_which_too_little_can_be_text_are_refused(mute: str, tmp_path: Path) -> None:
    request = make_request([1500], [_ESSAYS[0]], **essays(tmp_path, f"This stays. A {TOKEN} in it, and more. " * 300))
    with pytest.raises(BadFileError, match=r"essays: .* 3,300 characters remain; a haystack needs 5,000 or more"):
        check_lengths(request, load_tokenizer(mute))


def test_what_texts_of_others_gave_before_has_another_version(corpora: dict[str, Corpus], tmp_path: Path) -> None:
    def versions(**given: Any) -> dict[str, int]:
        tasks = make_request([1500], [*_ESSAYS, "ruler_vt"], **given).describe()["tasks"]
        return {name: task["version"] for name, task in tasks.items()}

    assert versions() == dict.fromkeys((*_ESSAYS, "ruler_vt"), 1)
    mine = essays(tmp_path, "Words of mine, and more. " * 300)
    assert versions(**mine) == dict.fromkeys(_ESSAYS, 2) | {"ruler_vt": 1}
    (task,) = make_request([1500], ["qa_squad"], corpora=corpora).tasks
    assert json.loads(task.key())[:2] == ["qa_squad", 3]


def test_tasks_that_share_essays_tell_once_what_is_left_out(mute: str, tmp_path: Path) -> None:
    essays(tmp_path, f"This stays, all of it. A {TOKEN} in it. " * 300)
    options = ["--tokenizer", mute, "--essays", str(tmp_path / "essays.txt"), *(f"-t{task}" for task in _ESSAYS)]
    done = run("generate", "-l", "1500", "-n", "1", "-w", "1", *options, "-o", tmp_path / "data")
    assert done.code == 0, done.err
    assert done.err.count("left out 300 sentences") == 1


def test_words_of_a_template_that_spell_one_are_asked_about(qwen: PromptTokenizer) -> None:
    words = {"intro": "<|im_start|>user\n", "question": f"{{value}}? {{format}}{TOKEN}\n<|im_start|>assistant\n"}
    template = parse_template("ruler_vt", words, "words.toml")
    options: dict[str, Any] = {"templates": {"ruler_vt": template}}
    with pytest.raises(UsageError, match=r"template: 'ruler_vt\.intro' spells <\|im_start\|>.*--control-tokens keep"):
        check_lengths(make_request([1500], ["ruler_vt"], **options), qwen)
    check_lengths(
        make_request([1500], ["ruler_vt"], control_tokens="keep", **options), load_tokenizer(keeps_control=True)
    )


def test_it_is_an_option_of_the_command(corpora: dict[str, Corpus], tmp_path: Path) -> None:
    (path,) = corpora["qa_squad"].paths
    arguments = ["-l", "1200", "-t", "qa_squad", "-n", "1", "-w", "1", "--corpus", f"qa_squad={path}"]
    done = run("generate", *arguments, "--control-tokens", "keep", "-o", tmp_path / "kept")
    assert done.code == 0, done.err
    assert open_dataset(str(tmp_path / "kept")).manifest.request.control_tokens == "keep"
