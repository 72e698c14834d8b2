"""Data sets as RULER's scripts, kvpress and lm-evaluation-harness want them, tried as these tools read them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import load_dataset

from sparse_tasks.core.errors import install
from sparse_tasks.core.sample import Sample
from sparse_tasks.evaluators.dataset import Dataset, open_dataset
from sparse_tasks.evaluators.exports import DATA_EXPORTS
from tests import example_corpora as made
from tests.cli.program import contents, run

# The tasks of RULER's synthetic.yaml, and what its constants give to an answer.
RULER = {
    "niah_single_1": 128, "niah_single_2": 128, "niah_single_3": 128, "niah_multikey_1": 128, "niah_multikey_2": 128,
    "niah_multikey_3": 128, "niah_multivalue": 128, "niah_multiquery": 128, "vt": 30, "cwe": 120, "fwe": 50,
    "qa_1": 32, "qa_2": 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def ruler(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """RULER's tasks in RULER's form."""
    folder = tmp_path_factory.mktemp("ruler")
    paths = made.write_all(folder)
    corpora = [f"--corpus={name}={paths[name]}" for name in ("qa_squad", "qa_hotpotqa")]
    made_data = run(
        "generate", "-t", "ruler", "-l", "4k", "-l", "3k", "-n", "2", "-w", "1", "--preset", "ruler", *corpora,
        "-o", folder / "data",
    )  # fmt: skip
    assert made_data.code == 0, made_data.err
    return open_dataset(str(folder / "data"))


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Tasks of ours in our form, some of which RULER does not know."""
    folder = tmp_path_factory.mktemp("ours")
    paths = made.write_all(folder)
    tasks = ("story", "ruler_vt", "ruler_niah", "qa_squad", "qa_toefl", "qa_biographies")
    corpora = [f"--corpus={name}={paths[name]}" for name in ("qa_squad", "qa_toefl")]
    made_data = run(
        "generate",
        *(f"--task={task}" for task in tasks),
        "-l",
        "3k",
        "-n",
        "2",
        "-w",
        "1",
        *corpora,
        "-o",
        folder / "data",
    )
    assert made_data.code == 0, made_data.err
    return open_dataset(str(folder / "data"))


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Answers that are begun in the model's turn."""
    folder = tmp_path_factory.mktemp("begun")
    small = ("-t", "story_multihop", "-l", "2k", "-n", "1", "-w", "1", "--preset", "small")
    assert run("generate", *small, "-o", folder / "data").code == 0
    return open_dataset(str(folder / "data"))


def samples_of(dataset: Dataset) -> dict[tuple[str, int], list[Sample]]:
    kept: dict[tuple[str, int], list[Sample]] = {}
    for sample in dataset.samples(dataset.select(), Sample):
        kept.setdefault((sample.task, sample.length), []).append(sample)
    return kept


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def exported(dataset: Dataset, to: str, folder: Path) -> tuple[Path, str]:
    done = run("export", dataset.path, "--to", to, "-o", folder)
    assert done.code == 0, done.err
    assert sorted(Path(line) for line in done.out.splitlines()) == sorted(p for p in folder.rglob("*") if p.is_file())
    return folder, done.err.replace("\n", " ")


@pytest.mark.parametrize("to", DATA_EXPORTS.names())
def test_the_same_bytes_each_time(to: str, ours: Dataset, tmp_path: Path) -> None:
    first, second = (contents(exported(ours, to, tmp_path / name)[0]) for name in ("a", "b"))
    assert first == second
    before = contents(ours.path)
    assert not any(
        str(tmp_path) in content.decode("latin-1") for content in first.values() if isinstance(content, bytes)
    )
    assert contents(ours.path) == before


def test_unsupported_data_is_one_line(ours: Dataset, tmp_path: Path) -> None:
    done = run("export", ours.path, "--to", "lm_eval_tasks", "-o", tmp_path / "x")
    assert done.code == 2
    assert done.says("to", "lm_eval_tasks", "did you mean 'lm_eval_task'")
    assert run("export", tmp_path / "none", "--to", "ruler").code == 2


# --- RULER ---------------------------------------------------------------------------------------------------


def all_of(output: str, answers: Sequence[str]) -> float:
    return sum(answer.lower() in output.lower() for answer in answers) / len(answers)


def any_of(output: str, answers: Sequence[str]) -> float:
    return max(float(answer.lower() in output.lower()) for answer in answers)


def test_ruler_finds_its_tasks_by_name(ruler: Dataset, tmp_path: Path) -> None:
    folder, reported = exported(ruler, "ruler", tmp_path / "out")
    assert reported == ""
    samples = samples_of(ruler)
    for length in (4096, 3072):
        # call_api.py: DATA_DIR / TASK / validation.jsonl
        assert {path.name for path in (folder / str(length)).iterdir()} == set(RULER)
        for task, budget in RULER.items():
            lines = lines_of(folder / str(length) / task / "validation.jsonl")
            expected = samples[f"ruler_{task}", length]
            assert [line["index"] for line in lines] == [0, 1]
            for line, sample in zip(lines, expected, strict=True):
                assert set(line) == {"index", "input", "outputs", "length", "answer_prefix"}
                assert line["input"] + line["answer_prefix"] == sample.prompt
                assert line["answer_prefix"].strip()
                assert not line["input"].endswith(line["answer_prefix"])
                assert line["length"] == sample.input_tokens + budget <= length
                assert line["length"] > length - 33
                # evaluate.py
                match = any_of if task.startswith("qa") else all_of
                assert match(f"It is {sample.answer}.", line["outputs"]) == 1.0
                assert match("No idea.", line["outputs"]) == 0.0


def test_unsupported_tasks_are_omitted_for_ruler_with_a_notice(ours: Dataset, tmp_path: Path) -> None:
    folder, reported = exported(ours, "ruler", tmp_path / "out")
    assert [path.name for path in (folder / "3072").iterdir()] == ["vt"]
    for task in ("story_retrieval", "ruler_niah", "qa_squad", "qa_biographies"):
        assert task in reported
    assert "ruler_vt asks for an answer in tags, for which RULER's 30 tokens are few; see --preset ruler" in reported


def test_a_data_set_without_rulers_tasks_is_refused(tmp_path: Path) -> None:
    assert run("generate", "-t", "story_multihop", "-l", "2k", "-n", "1", "-w", "1", "-o", tmp_path / "d").code == 0
    done = run("export", tmp_path / "d", "--to", "ruler", "-o", tmp_path / "out")
    assert done.code == 2
    assert "has none of RULER's tasks" in done.err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


# --- kvpress -------------------------------------------------------------------------------------------------


def kvpress_scores(rows: list[dict[str, Any]], said: dict[str, str]) -> dict[str, float]:
    """As kvpress' scorer of RULER: by the first word of the task's name."""
    by_task: dict[str, list[float]] = {}
    for row in rows:
        match = any_of if row["task"].split("_")[0] == "qa" else all_of
        by_task.setdefault(row["task"], []).append(match(said[row["id"]], row["answer"]))
    return {task: sum(values) / len(values) for task, values in by_task.items()}


def test_kvpress_reads_a_length_and_picks_the_right_metric(ruler: Dataset, tmp_path: Path) -> None:
    folder, reported = exported(ruler, "kvpress", tmp_path / "out")
    assert reported == ""
    samples = {sample.id: sample for some in samples_of(ruler).values() for sample in some}
    for length in ("4096", "3072"):
        rows = load_dataset(str(folder), data_dir=length, split="test", cache_dir=str(tmp_path / "cache")).to_list()
        assert {row["task"] for row in rows} == set(RULER)
        assert len({row["context"] for row in rows}) == len(rows)  # it groups by context
        for row in rows:
            sample = samples[row["id"]]
            assert row["context"] + row["question"] + row["answer_prefix"] == sample.prompt
            assert (row["answer"], row["max_new_tokens"]) == (sample.answers, sample.max_new_tokens)
            assert sample.length == int(length)
        # One of several references is right for a question, and half of the needles is half for needles.
        said = {row["id"]: row["answer"][0] for row in rows}
        scores = kvpress_scores(rows, said)
        assert scores["qa_1"] == scores["qa_2"] == scores["niah_single_1"] == 1.0
        assert scores["niah_multiquery"] == 0.25


def test_kvpress_gets_names_by_metric_and_no_letters(ours: Dataset, tmp_path: Path) -> None:
    folder, reported = exported(ours, "kvpress", tmp_path / "out")
    rows = load_dataset(str(folder), data_dir="3072", split="test", cache_dir=str(tmp_path / "cache")).to_list()
    names = {row["task"] for row in rows}
    assert "qa_squad" in names
    assert "qa_biographies" in names  # references, of which one is enough
    assert {"vt", "niah", "story_retrieval"} <= names
    assert "qa_toefl" not in names
    assert re.search(r"left out: .*qa_toefl.*: kvpress looks for an answer anywhere", reported)
    assert "generate --question-position after" in reported
    assert all(len(answer) > 1 for row in rows for answer in row["answer"])


# --- lm-evaluation-harness -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ruler", "ours"])
def test_lm_evals_tasks_score_as_we_do(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    dataset: Dataset = request.getfixturevalue(name)
    folder, reported = exported(dataset, "lm_eval_task", tmp_path / "out")
    assert reported == ""
    from sparse_tasks.evaluators.exports.lm_eval_task import process_results

    group = yaml.safe_load((folder / "sparse_tasks.yaml").read_text())
    samples = samples_of(dataset)
    assert len(group["task"]) == len(samples) == len(list(folder.glob("data/*.jsonl")))
    for (task, length), expected in samples.items():
        config = f"{task}_{length // 1024}k"
        text = (folder / f"{config}.yaml").read_text()
        assert text.endswith("process_results: !function utils.process_results\n")
        settings = yaml.safe_load(text.replace("!function ", ""))
        assert settings["task"] == f"sparse_tasks_{config}"
        assert settings["task"] in group["task"]
        (data,) = settings["dataset_kwargs"]["data_files"].values()
        lines = lines_of(folder / data)
        assert [line[settings["doc_to_text"]] for line in lines] == [sample.prompt for sample in expected]
        assert settings["generation_kwargs"]["max_gen_toks"] == expected[0].max_new_tokens
        for line, sample in zip(lines, expected, strict=True):
            right = sample.answer if sample.answer_prefix.strip() else f"So: <answer>{sample.answer}</answer>"
            assert process_results(line, [right]) == {"score": 1.0}
            assert process_results(line, ["No idea."]) == {"score": 0.0}


def test_begun_answers_stand_in_the_models_turn(begun: Dataset, tmp_path: Path) -> None:
    folder, _ = exported(begun, "lm_eval_task", tmp_path / "out")
    (sample,) = begun.samples(begun.select(), Sample)
    (line,) = lines_of(folder / "data" / "story_multihop_2k.jsonl")
    assert (
        yaml.safe_load((folder / "story_multihop_2k.yaml").read_text().replace("!function ", ""))["gen_prefix"]
        == "beginning"
    )
    assert (line["prompt"], line["beginning"], line["begun"]) == (sample.prompt, "<answer>\n", True)
    from sparse_tasks.evaluators.exports.lm_eval_task import process_results

    assert process_results(line, [f"{sample.answer}</answer>"]) == {"score": 1.0}


LM_EVAL = """
import json, os, sys
from pathlib import Path
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

gold = {}
for path in Path().glob("*/data/*.jsonl"):
    for line in path.open():
        row = json.loads(line)
        plain = row["before"].strip() or row["begun"]
        # Without a chat template the harness parts the turns by a blank.
        prompt = f"{row['prompt']} {row['beginning']}" if row["beginning"] else row["prompt"]
        gold[prompt] = row["answer"] if plain else f"<answer>{row['answer']}</answer>"

class Gold(LM):
    def generate_until(self, requests):
        return [gold[request.args[0]] for request in requests]
    def loglikelihood(self, requests):
        raise NotImplementedError
    def loglikelihood_rolling(self, requests):
        raise NotImplementedError

scores = {}
for folder in sorted(Path().resolve().iterdir()):
    os.chdir(folder)
    tasks = TaskManager(include_path=".", include_defaults=False)
    done = simple_evaluate(Gold(), tasks=["sparse_tasks"], task_manager=tasks, bootstrap_iters=0)
    scores[folder.name] = {name: values.get("score,none") for name, values in done["results"].items()}
print(json.dumps(scores))
"""


def test_lm_eval_itself_runs_them(ruler: Dataset, ours: Dataset, begun: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    datasets = {"begun": begun, "ours": ours, "ruler": ruler}
    for name, dataset in datasets.items():
        exported(dataset, "lm_eval_task", tmp_path / "out" / name)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LM_EVAL], cwd=tmp_path / "out", env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    scores = json.loads(done.stdout.splitlines()[-1])
    assert scores.keys() == datasets.keys()
    for name, dataset in datasets.items():
        assert len(scores[name]) == len(samples_of(dataset)) + 1  # and their mean
        assert set(scores[name].values()) == {1.0}


# --- what is said of tools and extras ------------------------------------------------------------------------

ROOT = Path(__file__).parents[3]


def test_every_message_that_names_an_extra_says_what_works_in_a_clone() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for extra in extras:
        said = install(extra)
        assert f"in a clone {'' if extra == 'openai' else 'pip install torch, then '}pip install '.[{extra}]'" in said
        assert f"once there is a release, pip install 'sparse-tasks[{extra}]'" in said
    # It is the only place: nothing else can promise what an index does not have.
    for path in (ROOT / "sparse_tasks").rglob("*.py"):
        named = re.findall(r"sparse-tasks\[", path.read_text(encoding="utf-8"))
        assert not named or path.name == "errors.py", path
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        assert "'sparse-tasks[" not in page.read_text(encoding="utf-8"), page


def test_pages_that_start_vllms_server_say_how_the_cpu_build_does() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        text = page.read_text(encoding="utf-8")
        if re.search(r"^vllm serve|`vllm serve`", text, flags=re.MULTILINE):
            assert "python -m vllm.entrypoints.openai.api_server" in text, page
