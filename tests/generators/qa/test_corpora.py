"""Corpora from the command line to the card: groups, notices, errors, workers, validation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sparse_tasks.core.errors import BadFileError, UsageError
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.evaluators.scoring import gold_score
from sparse_tasks.generators import api, corpora
from sparse_tasks.generators.corpora import CORPORA, Corpus, find_corpora
from sparse_tasks.generators.run import generate_folder
from sparse_tasks.generators.task import TASKS
from sparse_tasks.generators.validation import validate_folder
from tests import example_corpora as made
from tests.cli.program import run
from tests.example_corpora import example_corpora
from tests.generators.requests import make_request
from tests.schemas.validation import problems

SQUAD, TOEFL = ("qa_squad", "qa_toefl")


def only(*names: str) -> dict[str, Corpus]:
    return {name: example_corpora()[name] for name in names}


def names_of(tasks: list[str], *corpora: str) -> tuple[list[str], tuple[str, ...]]:
    request = make_request(["4k"], tasks, corpora=only(*corpora))
    return [task.name for task in request.tasks], request.notices


# --- which tasks ---------------------------------------------------------------------------------------------


def test_a_group_leaves_out_what_has_no_corpus_and_says_how_to_supply_it() -> None:
    tasks, notices = names_of(["qa"], SQUAD)
    assert tasks == ["qa_squad"]
    *wants, unanswerable = notices
    assert {notice.split(":")[0] for notice in wants} == {
        f"left out for want of the corpus {name}" for name in ("qa_hotpotqa", "qa_quality", "qa_toefl")
    }
    assert all("--corpus" in notice for notice in wants)
    assert unanswerable == "qa_squad (squad.json): left out 480 questions that cannot be answered"


def test_without_any_corpus_the_biographies_are_used() -> None:
    tasks, notices = names_of(["qa"])
    assert tasks == ["qa_biographies"]
    assert "no corpus was given for qa; qa_biographies is used instead" in notices


def test_rulers_group_takes_the_same_corpora() -> None:
    assert {"ruler_qa_1", "ruler_qa_2"}.isdisjoint(names_of(["ruler"])[0])
    assert "ruler_qa_1" in names_of(["ruler"], SQUAD)[0]
    tasks, notices = names_of(["ruler", "qa"], SQUAD, "qa_hotpotqa")
    assert {"ruler_qa_1", "ruler_qa_2", "qa_squad", "qa_hotpotqa"} <= set(tasks)
    assert len([notice for notice in notices if "for want of" in notice]) == 2


@pytest.mark.parametrize("name", [task.name for task in TASKS if "corpus" in task.texts])
def test_a_task_named_by_itself_needs_its_corpus(name: str) -> None:
    with pytest.raises(
        UsageError, match=f"task: '{name}' needs the corpus {TASKS.get(name).texts['corpus']}; .*--corpus"
    ):
        make_request(["4k"], [name])


def test_a_corpus_that_no_task_takes() -> None:
    with pytest.raises(UsageError, match="corpus: 'qa_toefl' is not used by any of the tasks"):
        make_request(["4k"], ["qa_squad"], corpora=only(SQUAD, TOEFL))


def test_omitted_questions_of_a_corpus_are_reported(tmp_path: Path) -> None:
    content = made.squad(articles=3)
    content["data"][0]["paragraphs"][0]["qas"][0]["answers"] = [{"text": "Xyzzy", "answer_start": 0}]
    found = find_corpora({SQUAD: str(made.write_json(tmp_path / "dev.json", content))})
    request = make_request(["4k"], ["qa_squad"], corpora=found)
    assert request.notices == (
        "qa_squad (dev.json): left out 1 question whose answer is not in their document; "
        "24 questions that cannot be answered",
    )


def test_a_bad_corpus_shows_before_anything_is_made(tmp_path: Path) -> None:
    found = find_corpora({SQUAD: str(made.write_lines(tmp_path / "dev.json", made.quality(2, 8)))})
    with pytest.raises(
        BadFileError, match=r"dev\.json, line 1: the record has the fields article, .*; SQuAD is read from"
    ):
        make_request(["4k"], ["qa_squad"], corpora=found)


@pytest.mark.parametrize(
    ("name", "source", "says"),
    [
        ("qa_sqad", "x", "names no corpus: 'qa_sqad' is unknown; did you mean 'qa_squad'?"),
        (SQUAD, "nowhere.json", "is not a file; take --corpus qa_squad=hub, or"),
        (SQUAD, "/", "is a folder; name the file itself"),
        (SQUAD, "x" * 5000, "is not a path: .*File name too long"),
        (SQUAD, "~nobody-here/x", "is not a path"),
        (SQUAD, "a\0b", "is not a file|is not a path"),
    ],
)
def test_invalid_sources(name: str, source: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        find_corpora({name: source})


def test_every_corpus_says_what_it_is() -> None:
    assert {"qa_squad", "qa_quality", "qa_toefl", "qa_hotpotqa"} <= set(CORPORA.names())
    for name in CORPORA.names():
        kind = CORPORA.get(name)
        assert kind.name == name
        assert kind.summary
        assert "--corpus" in kind.supply or "--essays" in kind.supply
    licences = {name: CORPORA.get(name).licence for name in CORPORA.names() if name.startswith("qa_")}
    assert licences == {
        "qa_squad": "CC BY-SA 4.0",
        "qa_quality": "CC BY 4.0",
        "qa_toefl": None,
        "qa_hotpotqa": "CC BY-SA 4.0",
    }


# --- data sets -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, qwen: PromptTokenizer) -> Path:
    path = tmp_path_factory.mktemp("qa") / "data"
    request = make_request(["2k"], ["qa_squad", "qa_toefl", "ruler_niah"], 3, corpora=only(SQUAD, TOEFL))
    generate_folder(request, qwen, path)
    return path


def header_of(folder: Path) -> dict[str, Any]:
    header: dict[str, Any] = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    return header


def test_card_and_manifest_name_source_revision_and_licence(folder: Path) -> None:
    manifest = json.loads((folder / "sparse_tasks.json").read_text())
    assert problems(manifest, "manifest-1.0") == []
    assert [(c["name"], c["origin"], c["revision"], c["licence"]) for c in manifest["corpora"]] == [
        ("qa_squad", "squad.json", None, "CC BY-SA 4.0"),
        ("qa_toefl", "toefl.jsonl", None, None),
    ]
    card = (folder / "README.md").read_text()
    for corpus in manifest["corpora"]:
        rows = [line for line in card.splitlines() if line.startswith(f"| `{corpus['name']}` |")]
        (row,) = (line for line in rows if corpus["sha256"] in line and corpus["origin"] in line)
        assert (corpus["licence"] or "unclear") in row
        assert row.endswith(f"| `{corpus['name']}` |")
    assert "Where that is unclear, find out" in card
    header = header_of(folder)
    assert header["license"] == ["cc-by-4.0", "cc-by-sa-4.0", "unknown"]
    assert header["source_datasets"] == ["original", "extended|squad_v2", "extended|other-qa_toefl"]
    assert header["annotations_creators"] == ["machine-generated", "found"]


def test_a_card_of_corpora_alone_and_one_without_any(tmp_path: Path, qwen: PromptTokenizer) -> None:
    generate_folder(make_request(["2k"], ["qa_squad"], 1, corpora=only(SQUAD)), qwen, tmp_path / "a")
    generate_folder(make_request(["2k"], ["ruler_niah"], 1), qwen, tmp_path / "b")
    header, card = header_of(tmp_path / "a"), (tmp_path / "a" / "README.md").read_text()
    assert header["license"] == "cc-by-sa-4.0"
    assert header["source_datasets"] == ["extended|squad_v2"]
    assert "are invented" not in card
    assert "find out before" not in card
    header, card = header_of(tmp_path / "b"), (tmp_path / "b" / "README.md").read_text()
    assert (header["license"], header["source_datasets"]) == ("cc-by-4.0", ["original"])
    assert "exts of others" not in card
    assert "\n\n\n" not in card


def test_data_sets_are_valid_with_the_corpora_and_without(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "_mounted", {})
    for known in ((), only(SQUAD).values(), only(SQUAD, TOEFL).values()):
        assert validate_folder(folder, gold_score, corpora=known).problems == []
    assert validate_folder(folder, gold_score, workers=2, corpora=only(SQUAD).values()).problems == []


def test_another_corpus_is_refused(folder: Path, tmp_path: Path) -> None:
    other = find_corpora({SQUAD: str(made.write_json(tmp_path / "other.json", made.squad(2)))})
    with pytest.raises(UsageError, match=r"'qa_squad=other\.json' differs from the data set's"):
        validate_folder(folder, gold_score, corpora=other.values())
    with pytest.raises(UsageError, match="'qa_quality' is none of the data set's"):
        validate_folder(folder, gold_score, corpora=only("qa_quality").values())


def test_workers_have_the_corpora_and_make_the_same(tmp_path: Path, qwen: PromptTokenizer) -> None:
    request = make_request(["2k"], ["qa_squad", "ruler_qa_1"], 3, corpora=only(SQUAD))
    manifests = [generate_folder(request, qwen, tmp_path / str(n), workers=n) for n in (1, 2)]
    assert manifests[0] == manifests[1]


def test_the_location_of_a_corpus_does_not_affect_samples(tmp_path: Path, qwen: PromptTokenizer) -> None:
    moved = find_corpora({SQUAD: str(made.write_json(tmp_path / "elsewhere.json", made.squad()))})
    one, two = (
        api.generate("2k", "qa_squad", 2, corpora={SQUAD: str(found.paths[0])})["qa_squad_2k"].to_list()
        for found in (example_corpora()[SQUAD], moved[SQUAD])
    )
    assert one == two


def test_the_command_line(tmp_path: Path) -> None:
    made.write_all(tmp_path)
    corpus, small = ("--corpus", f"qa_squad={tmp_path}/squad.json"), ("-l", "2k", "-n", "2", "-w", "1")
    done = run("generate", *small, "-t", "qa", *corpus, "-o", tmp_path / "d")
    assert done.code == 0
    assert "note: left out for want of the corpus qa_toefl" in done.err
    assert run("validate", tmp_path / "d", "-w", "1", *corpus).code == 0
    wrong = run("validate", str(tmp_path / "d"), "--corpus", f"qa_squad={tmp_path}/toefl.jsonl")
    assert wrong.code == 2
    assert "differs from the data set" in wrong.err
    for options in (["--corpus", "qa_squad"], ["--corpus", "qa_squad="], []):
        assert run("generate", "-l", "2k", "-t", "qa_squad", *options, "-o", str(tmp_path / "e")).code == 2
    (tmp_path / "squad.json").write_bytes((tmp_path / "squad.json").read_bytes()[:5000])
    cut = run("generate", "-l", "2k", "-t", "qa_squad", "--corpus", f"qa_squad={tmp_path}/squad.json")
    assert cut.code == 2
    assert "squad.json, line 1, column" in cut.err
    assert "Traceback" not in cut.err
