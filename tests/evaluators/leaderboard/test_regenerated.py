"""Without a data set, the check regenerates it, trusts nothing, and refuses a forged one at once."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from sparse_tasks.core.errors import OutputError, SparseTasksError, UsageError
from sparse_tasks.core.json import to_json
from sparse_tasks.core.records import Description, convert, to_builtins
from sparse_tasks.evaluators.analyses.table import read_runs
from sparse_tasks.evaluators.dataset import Dataset, identities, open_dataset
from sparse_tasks.evaluators.leaderboard import regenerated
from sparse_tasks.evaluators.leaderboard.check import check
from sparse_tasks.evaluators.leaderboard.regenerated import FromManifest, Watch, named
from sparse_tasks.evaluators.leaderboard.submission import make_submission
from sparse_tasks.evaluators.records import Verdict
from sparse_tasks.generators import again
from sparse_tasks.generators.again import Means
from sparse_tasks.generators.corpora import find_corpora
from sparse_tasks.generators.dataset import Shard, fingerprint
from sparse_tasks.generators.task import TASKS
from tests.cli.program import run
from tests.evaluators.leaderboard.handed_in import Edit, answered, changed, put, repacked
from tests.evaluators.leaderboard.mutations import HOSTILE_TEXTS, HOSTILE_VALUES
from tests.schemas.validation import problems

Written = Callable[[bytes], Path]
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module", autouse=True)
def files_of_two_samples() -> Iterator[None]:
    """As the data set was made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparse_tasks.generators.dataset._SHARD_TOKENS", 3000)
        yield


@pytest.fixture(scope="module")
def means(model: Path) -> Means:
    """What the submissions here take: the tokenizer of their data set."""
    return Means((str(model),))


@pytest.fixture(scope="module")
def nothing() -> Watch:
    """A watch over checks that generate nothing."""
    return Watch(lambda missing: pytest.fail("something was generated"))


def signed(content: bytes, edit: Edit, number: int = 0) -> bytes:
    """A submission with an edited description, to which everything else was made to fit."""

    def change(document: Any) -> None:
        description = document["datasets"][number]
        before = fingerprint(description)
        edit(description)
        for submitted in document["runs"]:
            claimed = submitted["settings"]["dataset"]
            if claimed["fingerprint"] == before:
                claimed["fingerprint"] = fingerprint(description)

    return changed(content, change)


def reported(verdict: Verdict) -> list[tuple[str, str]]:
    """Codes and messages of reasons, checked to be printable."""
    assert problems(to_builtins(verdict), "verdict-1.0") == []
    for finding in (*verdict.reasons, *verdict.warnings):
        assert f"{finding.where}{finding.message}".isprintable()
        assert len(finding.message) < 500
    return [(reason.code, reason.message) for reason in verdict.reasons]


def older(content: bytes, dataset: Dataset) -> bytes:
    """The submission as an older version would have written it: no descriptions, and the hash of the files."""
    files = {name: file.sha256 for name, file in dataset.manifest.files.items()}
    by_files = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    document = json.loads(content.replace(dataset.sha256.encode(), by_files.encode()))
    del document["datasets"]
    return json.dumps(document).encode()


# --- honest ones --------------------------------------------------------------------------------------------


def test_an_honest_submission_needs_no_data_set(
    honest: bytes, handed_in: Written, dataset: Dataset, means: Means, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: Any, **__: Any) -> Any:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "create_connection", no_network)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    made: list[tuple[str, int]] = []  # of each sample, its file and place there

    def note(shard: Shard, samples: int, tokens: int) -> None:
        before = sum(path == shard.path for path, _ in made)
        made.extend((shard.path, (before + i) % (shard.last - shard.first)) for i in range(samples))

    path = handed_in(honest)
    verdict = check(path, means=means, watch=Watch(made=note))
    assert verdict == check(path, [dataset])
    assert verdict.accepted
    assert len(made) == len(set(made)) == 16, "a data set is generated once for all runs over it"
    assert list((tmp_path / "temporary").iterdir()) == []


def test_any_number_of_processes_gives_the_same(honest: bytes, handed_in: Written, means: Means) -> None:
    assert check(handed_in(honest), means=replace(means, workers=2)) == check(handed_in(honest), means=means)


@pytest.mark.parametrize(
    "edit",
    [
        lambda made: made["libraries"].update(faker="1.2.3", tokenizers="0.1"),
        lambda made: made["generator"].update(version="0.0.9"),
        lambda made: made["tokenizer"].update(name="elsewhere"),
    ],
    ids=["libraries", "program", "tokenizer's name"],
)
def test_other_generators_of_the_same_samples_are_accepted(
    edit: Edit, honest: bytes, handed_in: Written, dataset: Dataset, means: Means
) -> None:
    path = handed_in(signed(honest, edit))
    for verdict in (check(path, means=means), check(path, [dataset])):
        assert (reported(verdict), verdict.samples) == ([], 32)


def test_a_part_of_a_data_set_is_enough(dataset: Dataset, handed_in: Written, means: Means, tmp_path: Path) -> None:
    answered(tmp_path / "runs" / "part", dataset, limit=2, tasks=["ruler_vt"])
    verdict = check(handed_in(make_submission(read_runs([tmp_path / "runs"]))), means=means)
    assert (reported(verdict), verdict.samples) == ([], 4)
    assert [warning.code for warning in verdict.warnings] == ["partial"]


def test_runs_over_several_data_sets_each_get_theirs(
    dataset: Dataset, model: Path, handed_in: Written, means: Means, tmp_path: Path
) -> None:
    arguments = ["-l", "1100", "-t", "ruler_niah", "-n", "3", "--seed", "7", "-w", "1", "--tokenizer", model]
    assert run("generate", *arguments, "-o", tmp_path / "other").code == 0
    answered(tmp_path / "runs" / "one", dataset)
    answered(tmp_path / "runs" / "two", open_dataset(str(tmp_path / "other")))
    content = make_submission(read_runs([tmp_path / "runs"]))
    assert len(json.loads(content)["datasets"]) == 2
    verdict = check(handed_in(content), means=means)
    assert (reported(verdict), verdict.samples) == ([], 19)


def test_scores_are_recomputed_here_too(honest: bytes, handed_in: Written, means: Means) -> None:
    path = handed_in(changed(honest, put(1.0, "runs", 1, "result", "configs", 0, "mean")))
    assert {code for code, _ in reported(check(path, means=means))} == {"scores_differ"}


@pytest.mark.parametrize("place", ["models", "hub", "hub at a revision"])
def test_tokenizers_in_the_caches_are_found(
    place: str, honest: bytes, handed_in: Written, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setenv("SPARSE_TASKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    name = "small"
    if place == "models":
        shutil.copytree(model, tmp_path / "cache" / "models" / "somebody's")
    else:
        repository = tmp_path / "hub" / "models--acme--small"
        shutil.copytree(model, repository / "snapshots" / commit)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit)
        name = "acme/small" if place == "hub" else f"acme/small@{commit}"
    content = signed(honest, lambda made: made["tokenizer"].update(name=name))
    assert reported(check(handed_in(content))) == []


def test_a_missing_corpus_is_requested(model: Path, handed_in: Written, means: Means, tmp_path: Path) -> None:
    essays = tmp_path / "essays.txt"
    essays.write_text("".join(f"The heron of day {day} stood in the shallows.\n" for day in range(400)))
    arguments = ["-l", "1500", "-t", "ruler_niah_single_2", "-n", "2", "-w", "1", "--tokenizer", model]
    assert run("generate", *arguments, "--essays", essays, "-o", tmp_path / "data").code == 0
    data = open_dataset(str(tmp_path / "data"))
    assert data.manifest.corpora
    answered(tmp_path / "runs" / "dense", data)
    path = handed_in(make_submission(read_runs([tmp_path / "runs"])))
    [(code, message)] = reported(check(path, means=means))
    assert code == "dataset_unknown"
    assert "corpus: 'essays' is needed; say where it is with --corpus essays=FILE" in message
    verdict = check(path, means=replace(means, corpora=find_corpora({"essays": str(essays)})))
    assert (reported(verdict), verdict.accepted) == ([], True)
    other = tmp_path / "other.txt"
    other.write_text("Another text.\n" * 1000)
    [(code, message)] = reported(check(path, means=replace(means, corpora=find_corpora({"essays": str(other)}))))
    assert (code, "differs from the data set's" in message) == ("dataset_unknown", True)


# --- manifests, and older submissions -----------------------------------------------------------------------


def test_a_manifest_replaces_its_data_set(
    honest: bytes, handed_in: Written, dataset: Dataset, means: Means, tmp_path: Path
) -> None:
    manifest = tmp_path / "needles.json"
    manifest.write_bytes((dataset.path / "sparse_tasks.json").read_bytes())
    with named([str(manifest)], means, Watch()) as datasets:
        assert (datasets[0].name, datasets[0].is_called(dataset.sha256)) == (str(manifest), True)
        assert check(handed_in(honest), datasets) == check(handed_in(honest), [dataset])


def test_submissions_of_older_versions_are_accepted(
    honest: bytes, handed_in: Written, dataset: Dataset, means: Means, copy: Path, tmp_path: Path
) -> None:
    content = older(honest, dataset)
    assert dataset.sha256.encode() not in content
    path = handed_in(content)
    # By the folder as it is now, and as the older version had it.
    assert reported(check(path, [dataset])) == []
    manifest = json.loads((copy / "sparse_tasks.json").read_bytes())
    for entry in manifest["files"].values():
        del entry["samples_sha256"]
    (copy / "sparse_tasks.json").write_bytes(to_json(manifest))
    assert reported(check(path, [open_dataset(str(copy))])) == []
    # By the manifest of it, whose files another pyarrow has written, and other libraries.
    manifest["libraries"]["tokenizers"] = "0.1"
    manifest["fingerprint"] = fingerprint(manifest)
    for entry in manifest["files"].values():
        entry["sha256"] = hashlib.sha256(entry["sha256"].encode()).hexdigest()
    (tmp_path / "older.json").write_bytes(to_json(manifest))
    (copy / "sparse_tasks.json").write_bytes(to_json(manifest))
    theirs = open_dataset(str(copy)).sha256
    assert theirs not in identities(dataset.manifest)
    claimed = json.loads(content)["runs"][0]["settings"]["dataset"]
    for before, after in ((claimed["sha256"], theirs), (claimed["fingerprint"], manifest["fingerprint"])):
        content = content.replace(before.encode(), after.encode())
    with named([str(tmp_path / "older.json")], means, Watch()) as datasets:
        assert reported(check(handed_in(content), datasets)) == []
        # Who says so is not believed: these samples score what was written, whatever hash is claimed.
        better = changed(content, put(1.0, "runs", 1, "result", "configs", 0, "mean"))
        assert {code for code, _ in reported(check(handed_in(better), datasets))} == {"scores_differ"}


def test_an_older_submission_needs_its_data_set(
    honest: bytes, handed_in: Written, dataset: Dataset, means: Means
) -> None:
    reasons = reported(check(handed_in(older(honest, dataset)), means=means))
    assert [code for code, _ in reasons] == ["dataset_unknown"] * 2
    assert "does not say how its data set was generated" in reasons[0][1]
    assert "its manifest, with --data" in reasons[0][1]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda manifest: manifest["request"]["tasks"]["ruler_vt"].update(version=9), "version 9"),
        (lambda manifest: manifest["request"].update(seed=9), "other samples than those"),
        (lambda manifest: next(iter(manifest["files"].values())).update(samples_sha256="0" * 64), "other samples than"),
        (lambda manifest: manifest["tokenizer"].update(sha256="0" * 64), "is not on this machine"),
    ],
    ids=["task", "seed", "samples", "tokenizer"],
)
def test_a_manifest_of_other_samples_is_the_maintainers_mistake(
    edit: Edit, words: str, dataset: Dataset, means: Means, tmp_path: Path
) -> None:
    manifest = json.loads((dataset.path / "sparse_tasks.json").read_bytes())
    edit(manifest)
    (tmp_path / "needles.json").write_bytes(to_json(manifest))
    with named([str(tmp_path / "needles.json")], means, Watch()) as [found]:
        assert isinstance(found, FromManifest)
        with pytest.raises(UsageError, match=words):
            found.dataset  # noqa: B018


SUBMISSIONS = REPOSITORY / "studies" / "first-light" / "submissions"
KEPT = [path for path in sorted(SUBMISSIONS.glob("*/*.json")) if path.stem not in ("manifest", "controls")]


@pytest.mark.parametrize(
    "path", [path for path in KEPT if path.name != "manifest.json"], ids=lambda path: str(path)[-40:]
)
def test_the_submissions_of_the_repository_are_accepted_or_say_why_not(path: Path) -> None:
    alone = reported(check(path))
    assert {code for code, _ in alone} <= {"dataset_unknown"}
    assert alone == [] or "does not say how" in alone[0][1] or "cannot be generated again" in alone[0][1]
    manifest = path.parent / "manifest.json"
    recorded = json.loads(manifest.read_bytes())["request"]["tasks"]
    stale = [name for name, task in recorded.items() if TASKS.get(name).version != task["version"]]
    with named([str(manifest)], Means(), Watch()) as datasets:
        try:
            assert reported(check(path, datasets)) == []
        except UsageError as error:
            if stale:
                said = f"task: '{stale[0]}' was generated by version "
            else:
                said = "is not on this machine; say where it is with --tokenizer"
            assert said in str(error)  # noqa: PT017 - it depends on the machine


# --- forged ones --------------------------------------------------------------------------------------------


def asked(**fields: Any) -> Edit:
    return lambda made: made["request"].update(fields)


def of_task(**fields: Any) -> Edit:
    return lambda made: made["request"]["tasks"]["ruler_vt"].update(fields)


def parameters(**fields: Any) -> Edit:
    return lambda made: made["request"]["tasks"]["ruler_vt"]["parameters"].update(fields)


def tokenizer(**fields: Any) -> Edit:
    return lambda made: made["tokenizer"].update(fields)


def another_task(name: str, **fields: Any) -> Edit:
    plain = {"version": 1, "parameters": {}, "depth": "uniform", "max_new_tokens": 1024}
    return lambda made: made["request"]["tasks"].update({name: plain | fields})


def template(**fields: Any) -> Edit:
    return lambda made: made["chat_template"].update(fields)


def with_corpora(made: Any) -> None:
    parts = dict(made)
    made.clear()
    for name, part in parts.items():
        made[name] = part
        if name == "libraries":  # they come after it
            made["corpora"] = [CORPUS]


HASH = "5" * 64
CORPUS = {"name": "essays", "sha256": HASH, "origin": "essays.txt", "revision": None, "licence": None}
FORGED: dict[str, tuple[Edit, str]] = {
    # More than there is time for.
    "samples": (asked(samples=10**9), "samples: 1000000000 is out of range"),
    "largest number": (asked(samples=2**63 - 1), "is out of range"),
    "many samples": (asked(samples=10**6), "no more than 268,435,456 are generated again"),
    "many short samples": (asked(samples=50_000, lengths=[1, 2, 3]), "no more than 268,435,456"),
    "length": (asked(lengths=[100_000_000]), "length: 100000000 is out of range"),
    "many lengths": (asked(lengths=list(range(2**21 - 90, 2**21))), "no more than 268,435,456"),
    "answers": (of_task(max_new_tokens=10**12), "max-new-tokens: 1000000000000 is out of range"),
    # What is not installed.
    "task": (another_task("nobodys_task"), "task: 'nobodys_task' is not installed here"),
    "module": (another_task("os_path"), "task: 'os_path' is not installed here"),
    "older task": (of_task(version=2), "was generated by version 2 of it, and installed is version 1"),
    "library's tokenizer": (
        tokenizer(name="acme/large", sha256=HASH),
        "'acme/large' (SHA-256 5555555555555555…) is not",
    ),
    "tokenizer in a folder": (tokenizer(name="/etc", sha256=HASH), "say where it is with --tokenizer"),
    "tokenizer above": (tokenizer(name="a/b@../../../..", sha256=HASH), "say where it is with --tokenizer"),
    "tokenizer elsewhere": (tokenizer(name="https://127.0.0.1:9/x", sha256=HASH), "is not on this machine"),
    "tokenizer's long name": (tokenizer(name="a" * 200, sha256=HASH), "say where it is with --tokenizer"),
    "built-in tokenizer": (tokenizer(name="qwen2.5", sha256=HASH), "tokenizer: 'qwen2.5' (SHA-256 55"),
    "corpus": (with_corpora, "corpora: 'essays' are not those of the tasks: none"),
    "corpus unnamed": (
        another_task("ruler_niah_single_2", version=2, parameters={"essays": HASH}),
        "are not those of the tasks: essays",
    ),
    "no corpus": (another_task("qa_squad", version=3), "request: "),
    # What could be executed.
    "template's text": (
        template(source="{% for i in range(99999) %}{% endfor %}"),
        "another chat template than its own",
    ),
    "template's hash": (template(sha256=HASH), "another chat template than its own"),
    "special tokens": (template(special_tokens={"bos_token": "x"}), "another chat template than its own"),
    "wording": (of_task(template={"intro": "{a}\n", "question": "{b}"}), "has the user's own wording (--template)"),
    # What generate does not write.
    "out of range": (parameters(hops=33), "ruler_vt.hops: 33 is out of range; choose from 1..32"),
    "large": (parameters(hops=10**18), "is out of range"),
    "a text": (parameters(hops="4"), "request: \"tasks.ruler_vt.parameters.hops='4'\" is not what generate writes"),
    "not a number": (parameters(hops="nan"), "ruler_vt.hops: 'nan' is not a whole number"),
    "a list": (parameters(hops=[4]), "ruler_vt.hops: [4] is not a whole number"),
    "half": (parameters(hops=4.5), "ruler_vt.hops: 4.5 is not a whole number"),
    "nothing": (parameters(hops=None), "ruler_vt.hops: None is not a whole number"),
    "true": (parameters(hops=True), "ruler_vt.hops: True is not a whole number"),
    "unknown": (parameters(cost=0), "ruler_vt.cost: 0 sets no parameter of ruler_vt"),
    "missing": (
        lambda made: made["request"]["tasks"]["ruler_vt"]["parameters"].pop("hops"),
        "tasks.ruler_vt.parameters.hops",
    ),
    "depth": (of_task(depth="1.5"), "depth: '1.5' is not a depth"),
    "other words for a depth": (of_task(depth="0-1"), "tasks.ruler_vt.depth='0-1'"),
    "said where it is not": (asked(completed=False), "completed=False"),
    # What the runs are not over: their ids tell.
    "seed": (asked(seed=43), "by its description"),
    "other hops": (parameters(hops=3), "by its description"),
    "position": (asked(question_position="after"), "by its description"),
    "completed": (asked(completed=True), "by its description"),
    "begun": (asked(begin_answer=True), "by its description"),
    "control tokens": (asked(control_tokens="keep"), "by its description"),
    "output": (asked(length_includes_output=True), "by its description"),
    "middle": (of_task(depth="0.5"), "by its description"),
    "no template": (lambda made: made.update(chat_template=None), "by its description"),
    "lengths": (asked(lengths=[1100]), "no sample of its data set"),
    "fewer samples": (asked(samples=3), "no sample of its data set"),
    "tasks": (lambda made: made["request"]["tasks"].pop("ruler_niah"), "no sample of its data set"),
}


@pytest.mark.parametrize(("edit", "words"), FORGED.values(), ids=FORGED.keys())
def test_a_forged_description_costs_a_second(
    edit: Edit, words: str, honest: bytes, handed_in: Written, means: Means, nothing: Watch
) -> None:
    path = handed_in(signed(honest, edit))
    began = time.process_time()
    reasons = reported(check(path, means=means, watch=nothing))
    assert time.process_time() - began < 2
    assert {code for code, _ in reasons} <= {"dataset_unknown", "dataset_differs"}
    assert len(reasons) == 2
    assert all(words in message for _, message in reasons), reasons


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400])
def test_invalid_numbers_are_refused_on_reading(
    number: str, honest: bytes, handed_in: Written, means: Means, nothing: Watch
) -> None:
    content = signed(honest, parameters(hops=-12345)).replace(b"-12345", number.encode())
    assert [code for code, _ in reported(check(handed_in(content), means=means, watch=nothing))] == ["json"]


def each_run(*path: str, **fields: Any) -> Edit:
    """An edit of a part of all runs."""

    def edit(document: Any) -> None:
        for part in document["runs"]:
            for name in path:
                part = part[name]
            part.update(fields)

    return edit


@pytest.mark.parametrize(
    ("edit", "code", "words"),
    [
        (lambda document: document["datasets"].clear(), "dataset_unknown", "does not say how its data set was"),
        (put(1, "datasets", 0, "request", "seed"), "dataset_unknown", "that the submission does not describe"),
        (each_run("settings", "dataset", limit=1), "dataset_differs", "is 16; by the data set 4"),
        (each_run("settings", "dataset", tasks=["all"]), "dataset_differs", "choose from ruler_niah, ruler_vt"),
        (each_run("settings", "prompt", tokenizer_sha256=HASH), "dataset_differs", "by the data set"),
        (each_run("predictions", data="AAAA"), "predictions", "are cut short"),
    ],
    ids=["none", "another", "limit", "tasks", "tokenizer", "predictions"],
)
def test_contradictions_are_refused_before_generation(
    edit: Edit, code: str, words: str, honest: bytes, handed_in: Written, means: Means, nothing: Watch
) -> None:
    reasons = reported(check(handed_in(changed(honest, edit)), means=means, watch=nothing))
    assert {each for each, _ in reasons} == {code}
    assert words in reasons[0][1]


@pytest.mark.parametrize("how", ["budget", "hash"])
def test_different_samples_are_refused(
    how: str, honest: bytes, handed_in: Written, dataset: Dataset, means: Means
) -> None:
    # Ids are right, so that it takes the samples to find out.
    if how == "budget":
        content = signed(honest, of_task(max_new_tokens=2048))
    else:
        content = honest.replace(dataset.sha256.encode(), HASH.encode())
    reasons = reported(check(handed_in(content), means=means))
    assert [code for code, _ in reasons] == ["dataset_differs"] * 2
    assert "is of other samples than those that sparse-tasks" in reasons[0][1]


def test_several_data_sets_may_not_be_larger_than_one(
    honest: bytes, handed_in: Written, means: Means, dataset: Dataset, model: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    arguments = ["-l", "1100", "-t", "ruler_niah", "-n", "4", "--seed", "7", "-w", "1", "--tokenizer", model]
    assert run("generate", *arguments, "-o", tmp_path / "other").code == 0
    answered(tmp_path / "runs" / "one", dataset)
    answered(tmp_path / "runs" / "two", open_dataset(str(tmp_path / "other")))
    for module in (again, regenerated):
        monkeypatch.setattr(module, "MOST_TOKENS", 16 * 4096)
    [(code, message)] = reported(check(handed_in(make_submission(read_runs([tmp_path / "runs"]))), means=means))
    assert code == "dataset_unknown"
    assert "one of several, of more than 65,536 tokens altogether" in message


def test_an_impossible_data_set_is_refused(honest: bytes, handed_in: Written, means: Means) -> None:
    too_short = signed(honest, asked(lengths=[40, 1500]))
    description = json.loads(too_short)["datasets"][0]
    known = again.recipe(convert(description, Description, "description"), means)

    def edit(document: Any) -> None:
        for part in document["runs"]:
            part["settings"]["dataset"].update(lengths=[40, 1500])
            repacked(part, renamed)

    def renamed(lines: list[dict[str, Any]]) -> None:
        for line in lines:
            line["length"] = 40 if line["length"] == 1100 else 1500
            line["id"] = known.id(line["task"], line["length"], line["index"])

    reasons = reported(check(handed_in(changed(too_short, edit)), means=means))
    assert [code for code, _ in reasons] == ["dataset_unknown"] * 2
    assert "length: 40 is too short for ruler_niah, ruler_vt; the smallest that works is" in reasons[0][1]


def test_a_length_that_is_too_short_is_found_with_one_sample(honest: bytes, handed_in: Written, means: Means) -> None:
    # The smallest length that works is that of the largest sample, for which all of them are composed.
    content = signed(honest, asked(lengths=[40], samples=30_000))
    description = json.loads(content)["datasets"][0]
    known = again.recipe(convert(description, Description, "description"), means)

    def edit(document: Any) -> None:
        for part in document["runs"]:
            part["settings"]["dataset"].update(lengths=[40], samples=16, limit=8)
            repacked(part, renamed)

    def renamed(lines: list[dict[str, Any]]) -> None:
        for number, line in enumerate(lines):
            line.update(length=40, index=number % 8, task=("ruler_niah", "ruler_vt")[number // 8])
            line["id"] = known.id(line["task"], 40, line["index"])

    began = time.process_time()
    reasons = reported(check(handed_in(changed(content, edit)), means=means))
    assert time.process_time() - began < 2
    assert [code for code, _ in reasons] == ["dataset_unknown"] * 2
    assert "length: 40 is too short for ruler_niah, ruler_vt" in reasons[0][1]


@pytest.mark.parametrize(
    "error", [OutputError("no room"), SparseTasksError("a worker process died")], ids=["disk", "worker"]
)
def test_a_machine_failure_refuses_nothing(
    error: SparseTasksError, honest: bytes, handed_in: Written, means: Means, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(regenerated, "generate_folder", fails)
    with pytest.raises(SparseTasksError) as caught:
        check(handed_in(honest), means=means)
    assert (caught.value, caught.value.exit_code) == (error, 2)


def test_slow_generation_is_stopped(
    honest: bytes, handed_in: Written, means: Means, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regenerated, "MOST_SECONDS", 0)
    made: list[str] = []
    watch = Watch(made=lambda sample: made.append(sample.id))
    reasons = reported(check(handed_in(honest), means=means, watch=watch))
    assert [code for code, _ in reasons] == ["dataset_unknown"] * 2
    assert "and 0 seconds have passed" in reasons[0][1]
    assert made == []


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    for name, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(part, (*at, name))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_description_gets_a_verdict_and_no_false_claim_is_accepted(
    data: st.DataObject, honest: bytes, handed_in: Written, means: Means, dataset: Dataset
) -> None:
    numbers = st.sampled_from([-1, 0, 1, 2, 5, 43, 2**20, 2**31, 2**63 - 1, 1.0, 2.5, 1e308, 5e-324])
    values = st.one_of(numbers, st.sampled_from([*HOSTILE_VALUES, *HOSTILE_TEXTS]), st.text(max_size=8))

    def edit(made: Any) -> None:
        for _ in range(data.draw(st.integers(1, 3))):
            *to, last = data.draw(st.sampled_from([path for path in paths(made) if path]))
            inner = made
            for name in to:
                inner = inner[name]
            if data.draw(st.booleans()) or not isinstance(inner, dict):
                inner[last] = data.draw(values)
            else:
                del inner[last]

    try:
        content = signed(honest, edit)
    except (ValueError, UnicodeEncodeError):  # what JSON cannot say
        return
    path = handed_in(content)
    began = time.process_time()
    verdict = check(path, means=means)
    assert time.process_time() - began < 4
    reported(verdict)
    if verdict.accepted:
        made = json.loads(content)["datasets"][0]
        assert made["request"] == to_builtins(dataset.manifest.request)
        assert made["tokenizer"]["sha256"] == dataset.manifest.tokenizer.sha256
        template = dataset.manifest.chat_template
        assert made["chat_template"] == (template and structs.asdict(template))


def test_memory_does_not_depend_on_what_is_claimed(honest: bytes, handed_in: Written, means: Means) -> None:
    import tracemalloc

    path = handed_in(signed(honest, asked(samples=10**6, lengths=list(range(1100, 1190)))))
    tracemalloc.start()
    assert not check(path, means=means).accepted
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20
