"""Validation finds what is wrong and says where, in data and manifests that anybody may have changed."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.core.manifest import MANIFEST, PROGRESS
from sparse_tasks.core.tokenizers import PromptTokenizer, load_tokenizer
from sparse_tasks.evaluators.scoring import gold_score
from sparse_tasks.generators import dataset, validation
from sparse_tasks.generators.dataset import CARD
from sparse_tasks.generators.run import generate_folder
from sparse_tasks.generators.table import SCHEMA, read_rows
from sparse_tasks.generators.validation import Problem, Report, validate_folder
from tests.cli.program import contents, keep_tokenizers
from tests.generators.requests import make_request

Row = dict[str, Any]
TASKS = ["story_filtering", "story_multihop", "story_retrieval", "ruler_niah"]
NIAH = "3500/ruler_niah-test-00000-of-00002.parquet"
SECOND = "3500/ruler_niah-test-00001-of-00002.parquet"
FILTERING, HOP, RETRIEVAL = (NIAH.replace("ruler_niah", name) for name in TASKS[:3])


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Tokenizers are loaded once, and a file that is the same under the same manifest is checked once."""
    check, checked = validation._check_shard, {}

    def check_once(checker: Any, name: str) -> Any:
        manifest = checker.manifest
        entries = [manifest.files[name], manifest.files.get(name.replace("-00001-of", "-00000-of"))]
        others = [manifest.request, manifest.tokenizer, manifest.chat_template]
        key = (name, (checker.path / name).read_bytes(), repr([entries, others]))
        if key not in checked:
            checked[key] = check(checker, name)
        return checked[key]

    with keep_tokenizers(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "_check_shard", check_once)
        yield


@pytest.fixture(scope="module")
def good(qwen: PromptTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with two files of each task; read-only."""
    path = tmp_path_factory.mktemp("validation") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "_SHARD_TOKENS", 7_000)
        generate_folder(make_request(["3500"], TASKS, samples=3), qwen, path)
    return path


@pytest.fixture
def data(good: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return shutil.copytree(good, tmp_path / "data")


def validate(path: Path, **options: Any) -> Report:
    return validate_folder(path, gold_score, **options)


def found(path: Path) -> list[str]:
    """Each problem as the command line prints it."""
    return [f"{problem.where}: {problem.what}" for problem in validate(path).problems]


def manifest_of(path: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    return manifest


def sign(path: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest with the fingerprint that belongs to it."""
    rest = {key: value for key, value in manifest.items() if key not in ("fingerprint", "card_sha256", "files")}
    text = json.dumps(rest, ensure_ascii=False, indent=2) + "\n"
    manifest["fingerprint"] = hashlib.sha256(text.encode()).hexdigest()
    (path / MANIFEST).write_text(json.dumps(manifest, ensure_ascii=False), encoding="utf-8")


def rewrite(path: Path, name: str, rows: list[Row], schema: pa.Schema = SCHEMA) -> None:
    """Put other rows into a file, and into the manifest what belongs to them: only their content can tell."""
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, path / name)
    content = (path / name).read_bytes()
    manifest = manifest_of(path)
    manifest["files"][name] = {
        "bytes": len(content),
        "rows": len(rows),
        "sha256": hashlib.sha256(content).hexdigest(),
        "tokens": sum(row["input_tokens"] or 1 for row in rows),
    }
    sign(path, manifest)


def miscounted(task: str, *rows: int | None) -> str:
    """What is said where the files of a task hold so many rows, by the manifest, and not three."""
    files = [NIAH.replace("ruler_niah", task), SECOND.replace("ruler_niah", task)]
    counts = ", ".join(f"{file}: {n}" for file, n in zip(files, rows, strict=True) if n is not None)
    total = sum(n or 0 for n in rows)
    samples = "1 sample" if total == 1 else f"{total} samples"
    return f"{MANIFEST}: counts {samples} of {task} at 3500 in its files ({counts}), and asks for 3"


def test_generated_data_is_valid(good: Path) -> None:
    reported: list[int] = []
    before = contents(good)
    report = validate(good, progress=reported.append)
    assert report.problems == []
    assert (report.files, report.samples) == (8, 12)
    assert report.tokens == sum(entry["tokens"] for entry in manifest_of(good)["files"].values())
    assert reported == [2, 1] * 4
    assert contents(good) == before


def test_any_number_of_processes_finds_the_same(data: Path) -> None:
    rows = read_rows(data / HOP)
    rows[0]["answer"] = "brass kettle"
    rewrite(data, HOP, rows)
    assert validate(data, workers=2) == validate(data, workers=1) != Report()


@pytest.mark.parametrize(
    "options", [{"question_position": "after"}, {"length_includes_output": True}, {"depth": "0.5"}]
)
def test_other_requests_are_valid_too(qwen: PromptTokenizer, tmp_path: Path, options: dict[str, Any]) -> None:
    generate_folder(make_request(["3500"], ["story_multihop", "ruler_niah"], samples=2, **options), qwen, tmp_path)
    assert found(tmp_path) == []


@pytest.mark.parametrize("template", ["auto", "none"])
def test_data_that_begins_answers_is_valid(qwen: PromptTokenizer, tmp_path: Path, template: str) -> None:
    tokenizer = qwen if template == "auto" else qwen.with_template(None)
    for position in ("both", "after"):
        request = make_request(["3500"], ["story_multihop", "ruler_niah"], samples=2, preset="small",
                               question_position=position, chat_template=template)  # fmt: skip
        generate_folder(request, tokenizer, tmp_path / position)
        assert found(tmp_path / position) == []
    sent = json.loads((tmp_path / "both" / MANIFEST).read_bytes())["request"]
    assert sent["begin_answer"] is True


def test_data_without_a_template_is_valid(qwen: PromptTokenizer, tmp_path: Path) -> None:
    bare = qwen.with_template(None)
    generate_folder(make_request(["3500"], ["story_multihop"], samples=2, chat_template="none"), bare, tmp_path)
    assert found(tmp_path) == []


# What is done to the second row of a file, and what has to be said about it. Hashes and sizes fit afterwards.
def edit(column: str, change: Callable[[Any], Any]) -> Callable[[Row], None]:
    def apply(row: Row) -> None:
        row[column] = change(row[column])

    return apply


def edit_evidence(key: str, change: Callable[[Any], Any], span: int = 0) -> Callable[[Row], None]:
    def apply(row: Row) -> None:
        row["evidence"][span][key] = change(row["evidence"][span][key])

    return apply


def edit_params(**changes: Any) -> Callable[[Row], None]:
    def apply(row: Row) -> None:
        row["params"] = json.dumps(json.loads(row["params"]) | changes)

    return apply


def cut_line(row: Row) -> None:
    """Take a line out of the middle, everywhere."""
    lines = row["context"].splitlines(keepends=True)
    context = "".join(lines[: len(lines) // 2] + lines[len(lines) // 2 + 1 :])
    row["prompt"] = row["prompt"].replace(row["context"], context)
    row["context"] = context


def cut_line_and_count(row: Row) -> None:
    cut_line(row)
    row["input_tokens"] = load_tokenizer().count(row["prompt"])


def other_value(row: Row) -> None:
    """Another gold value in the text: same length, same tokens or nearly so."""
    value = row["answers"][0].rpartition(" ")[2]
    row["prompt"] = row["prompt"].replace(value, value[::-1])
    row["context"] = row["context"].replace(value, value[::-1])


CHANGES: dict[str, tuple[str, Callable[[Row], None], str]] = {
    "prompt shortened at its end": (NIAH, edit("prompt", lambda text: text[:-3]), "does not end in context + question"),
    "prompt shortened at its beginning": (NIAH, edit("prompt", lambda text: text[10:]), "its input_tokens says 3,"),
    "prompt without a line": (NIAH, cut_line, "its input_tokens says 3,"),
    "prompt without a line, counted": (NIAH, cut_line_and_count, "sparse_tasks.json asks for 3,468 to 3,500"),
    "prompt padded": (HOP, edit("prompt", lambda text: "Well, " * 50 + text), "its input_tokens says 3,"),
    "value in the text": (NIAH, other_value, "the prompt says"),
    "context of another sample": (HOP, edit("context", lambda text: text[::-1]), "does not end in context"),
    "question": (HOP, edit("question", lambda text: text + " Please."), "does not end in context + question"),
    "answer prefix": (HOP, edit("answer_prefix", lambda text: "So "), "does not end in context + question"),
    "answer": (HOP, edit("answer", lambda text: "brass kettle"), "the prompt says"),
    "answer of a number": (FILTERING, edit("answer", lambda text: text + ", 1"), "the prompt says"),
    "answer in capitals": (HOP, edit("answer", str.upper), "the prompt says"),
    "gold of another answer": (HOP, edit("answers", lambda texts: ["brass kettle"]), "scores 0 by exact_match"),
    "gold with an alternative": (HOP, edit("answers", lambda texts: [*texts, "brass kettle"]), "answers holds 'brass"),
    "gold in capitals": (HOP, edit("answers", lambda texts: [texts[0].upper()]), "answers holds '"),
    "gold list without an entry": (NIAH, edit("answers", lambda texts: texts[1:]), "by unordered_fraction against"),
    "gold list with one more": (NIAH, edit("answers", lambda texts: [*texts, "x: y"]), "by unordered_fraction against"),
    "gold list with one twice": (FILTERING, edit("answers", lambda texts: [*texts, texts[0]]), "answers holds '"),
    "gold set without an entry": (FILTERING, edit("answers", lambda texts: texts[1:]), "by set_iou against answers"),
    "gold order": (RETRIEVAL, edit("answers", lambda texts: texts[1:] + texts[:1]), "by ordered_fraction against"),
    "empty gold": (HOP, edit("answers", lambda texts: []), "answers: "),
    "unknown metric": (HOP, edit("metric", lambda text: "exact_mach"), "metric: 'exact_mach' is unknown"),
    "other metric": (FILTERING, edit("metric", lambda text: "exact_match"), "by exact_match against answers"),
    "evidence begins earlier": (HOP, edit_evidence("start", lambda at: at - 1), "evidence at"),
    "evidence begins later": (NIAH, edit_evidence("start", lambda at: at + 1), "evidence at"),
    "evidence ends earlier": (NIAH, edit_evidence("end", lambda at: at - 60), "that hold its label"),
    "evidence ends later": (HOP, edit_evidence("end", lambda at: at + 1), "does not begin and end with words"),
    "evidence ends before it begins": (HOP, edit_evidence("end", lambda at: 1), "lies outside the context"),
    "evidence beyond the prompt": (HOP, edit_evidence("end", lambda at: 10**9), "lies outside the context"),
    "evidence in the preview": (HOP, edit_evidence("start", lambda at: 0), "lies outside the context"),
    "evidence of something else": (HOP, edit_evidence("label", lambda text: "no such words"), "hold its label"),
    "depth of the evidence": (HOP, edit_evidence("depth", lambda depth: 1 - depth), "does not have depth"),
    "depth that is no number": (
        HOP,
        edit_evidence("depth", lambda depth: float("nan")),
        "depth: expected `float` >= 0.0, not NaN",
    ),
    "depth beyond the end": (
        HOP,
        edit_evidence("depth", lambda depth: 1.5),
        "depth: expected `float` <= 1.0, not 1.5",
    ),
    "no evidence": (HOP, edit("evidence", lambda spans: []), "evidence: "),
    "parameter": (HOP, edit_params(hops=2), "params differ from the data set's"),
    "parameter too many": (HOP, edit_params(jumps=2), "params differ from the data set's"),
    "depth in the parameters": (HOP, edit_params(depth="0.5"), "params differ from the data set's"),
    "what was drawn": (HOP, edit_params(drawn=None), "params differ from the data set's"),
    "parameters that are no JSON": (HOP, edit("params", lambda text: text[:-1]), "delimiter"),
    "parameters too deep": (HOP, edit("params", lambda text: '{"a":' * 100_000), "cannot be checked: RecursionError"),
    "parameters of another sort": (HOP, edit("params", lambda text: "[]"), "params: expected `str` matching"),
    "token count": (HOP, edit("input_tokens", lambda n: n - 1), "its input_tokens says 3,4"),
    "index": (HOP, edit("index", lambda n: 2), "index is 2; by its place it is 1"),
    "length": (HOP, edit("length", lambda n: 3600), "length is 3600; by the file's name it is 3500"),
    "task": (
        HOP,
        edit("task", lambda name: "ruler_niah"),
        "task is 'ruler_niah'; by the file's name it is 'story_multihop'",
    ),
    "seed": (HOP, edit("seed", lambda n: 43), "seed is 43; by sparse_tasks.json it is 42"),
    "budget": (HOP, edit("max_new_tokens", lambda n: n + 1), "max_new_tokens is "),
    "position": (
        HOP,
        edit("question_position", lambda name: "after"),
        "question_position is 'after'; by sparse_tasks.json it is 'both'",
    ),
    "id of another sample": (HOP, edit("id", lambda name: name.replace("-00001-", "-00002-")), "id does not name the"),
    "id of no form": (HOP, edit("id", lambda name: "first"), "id: expected `str` matching"),
    "no prompt": (HOP, edit("prompt", lambda text: None), "prompt: expected `str`, not null"),
    "empty prompt": (HOP, edit("prompt", lambda text: ""), "prompt: "),
    "no id": (HOP, edit("id", lambda name: None), "id: expected `str`, not null"),
    "no evidence at all": (HOP, edit("evidence", lambda spans: None), "evidence: expected `array`, not null"),
}


@pytest.mark.parametrize(("name", "change", "what"), CHANGES.values(), ids=CHANGES.keys())
def test_changed_sample_is_found(data: Path, name: str, change: Callable[[Row], None], what: str) -> None:
    rows = read_rows(data / name)
    before = copy.deepcopy(rows)
    change(rows[1])
    assert rows != before
    rewrite(data, name, rows)
    problems = found(data)
    assert any(what in problem for problem in problems), problems
    # Nothing else is accused, and every problem says where it is.
    assert all(problem.startswith(f"{name}, row 1") for problem in problems), problems


def test_a_manifest_that_lies_about_its_samples_is_found(data: Path) -> None:
    manifest = manifest_of(data)
    manifest["files"][HOP]["samples_sha256"] = "0" * 64
    sign(data, manifest)
    assert found(data) == [f"{HOP}: holds other samples than those of which {MANIFEST} has the hash"]


def test_duplicate_row_is_found(data: Path) -> None:
    rows = read_rows(data / HOP)
    rewrite(data, HOP, [rows[0], rows[0], rows[1]])
    problems = found(data)
    assert f"{HOP}, row 1: has the id of {HOP}, row 0: {rows[0]['id']}" in problems
    assert f"{HOP}, row 1: has the prompt of {HOP}, row 0" in problems
    assert miscounted("story_multihop", 3, 1) in problems


def test_duplicate_prompt_is_found_across_files(data: Path) -> None:
    rows, others = read_rows(data / NIAH), read_rows(data / SECOND)
    rewrite(data, SECOND, [rows[0] | {"id": others[0]["id"], "index": 2}])
    assert found(data) == [f"{SECOND}, row 0: has the prompt of {NIAH}, row 0"]


def test_duplicate_id_is_found(data: Path) -> None:
    rows = read_rows(data / HOP)
    rows[1]["id"] = rows[0]["id"]
    rewrite(data, HOP, rows)
    assert f"{HOP}, row 1: has the id of {HOP}, row 0: {rows[0]['id']}" in found(data)


def test_rows_in_another_order_are_found(data: Path) -> None:
    rewrite(data, HOP, read_rows(data / HOP)[::-1])
    problems = found(data)
    assert any(
        problem.startswith(f"{HOP}, row 0") and problem.endswith("index is 1; by its place it is 0")
        for problem in problems
    )


def test_row_that_is_missing_is_found(data: Path) -> None:
    rewrite(data, HOP, read_rows(data / HOP)[:1])
    assert miscounted("story_multihop", 1, 1) in found(data)


@pytest.mark.parametrize("at", [0, 100, 0.3, 0.6, 0.9, -1])
def test_flipped_byte_is_found(data: Path, at: float) -> None:
    content = bytearray((data / NIAH).read_bytes())
    content[int(at * len(content)) if isinstance(at, float) else at] ^= 0x10
    (data / NIAH).write_bytes(content)
    problems = found(data)
    assert f"{NIAH}: does not have the recorded SHA-256" in problems
    assert all(problem.startswith(NIAH) for problem in problems)


@pytest.mark.parametrize("content", [b"", b"words", None])
def test_file_that_is_not_parquet_is_found(data: Path, content: bytes | None) -> None:
    (data / NIAH).write_bytes((data / NIAH).read_bytes()[:1000] if content is None else content)
    said = [problem for problem in found(data) if "cannot be read" in problem]
    assert said[0].startswith(f"{NIAH}: cannot be read: it is ")


def test_other_columns_are_found(data: Path) -> None:
    rows = read_rows(data / NIAH)
    rewrite(data, NIAH, rows, SCHEMA.remove(SCHEMA.get_field_index("seed")))
    assert any("has other columns" in problem for problem in found(data))


def test_missing_shard_is_found(data: Path) -> None:
    (data / NIAH).unlink()
    assert found(data) == [f"{NIAH}: is missing"]


def test_shard_missing_from_files_and_manifest_is_found(data: Path) -> None:
    (data / NIAH).unlink()
    manifest = manifest_of(data)
    del manifest["files"][NIAH]
    sign(data, manifest)
    assert miscounted("ruler_niah", None, 1) in found(data)


@pytest.mark.parametrize("name", ["3500/more.parquet", "more.parquet", "a/b/more.parquet"])
def test_extra_shard_is_found(data: Path, name: str) -> None:
    # load_dataset(DIR, data_dir=...) would read it.
    (data / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(data / NIAH, data / name)
    assert found(data) == [f"{name}: is not in the manifest"]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("9999/ruler_niah-test-00000-of-00001.parquet", "has a length that the data set does not have"),
        ("3500/ruler_vt-test-00000-of-00001.parquet", "belongs to no task that is known here"),
        ("3500/no_such_task-test-00000-of-00001.parquet", "belongs to no task that is known here"),
    ],
)
def test_unrequested_shard_is_found(data: Path, name: str, what: str) -> None:
    (data / name).parent.mkdir(exist_ok=True)
    shutil.copy(data / NIAH, data / name)
    manifest = manifest_of(data)
    manifest["files"][name] = manifest["files"][NIAH]
    sign(data, manifest)
    assert any(problem.startswith(f"{name}: {what}") for problem in found(data))


def test_edited_and_missing_card_are_found(data: Path) -> None:
    (data / CARD).write_text((data / CARD).read_text() + "\nMore.\n")
    assert found(data) == [f"{CARD}: is missing or was changed"]
    (data / CARD).unlink()
    assert found(data) == [f"{CARD}: is missing or was changed"]


def at(manifest: dict[str, Any], path: str) -> tuple[Any, str]:
    *parents, last = path.split("/")
    for name in parents:
        manifest = manifest[name.replace("|", "/")]
    return manifest, last


FILE = "files/" + NIAH.replace("/", "|")
UNSIGNED = [
    ("generator/version", "9.9.9"),
    ("libraries/faker", "9.9.9"),
    ("request/samples", 2),
    ("request/seed", 1),
    ("request/tasks/story_multihop/parameters/hops", 2),
    ("request/tasks/story_multihop/depth", "0.5"),
    ("request/tasks/story_multihop/version", 2),
    ("request/length_includes_output", True),
    ("request/question_position", "after"),
    ("tokenizer/name", "qwen2.5-other"),
    ("fingerprint", "0" * 64),
]


@pytest.mark.parametrize(("path", "value"), UNSIGNED, ids=[path for path, _ in UNSIGNED])
def test_changed_manifest_is_found(data: Path, path: str, value: object) -> None:
    manifest = manifest_of(data)
    place, last = at(manifest, path)
    assert place[last] != value
    place[last] = value
    (data / MANIFEST).write_text(json.dumps(manifest))
    report = validate(data, tokenizer="qwen2.5")
    assert Problem(MANIFEST, "the configuration does not have the recorded fingerprint") in report.problems


SIGNED = [
    ("request/samples", 2, "counts 3 samples of ruler_niah at 3500 in its files"),
    ("request/seed", 1, "seed is 42; by sparse_tasks.json it is 1"),
    (
        "request/lengths",
        [3500, 4000],
        f"{MANIFEST}: counts 0 samples of ruler_niah at 4000 in its files (no file), and asks for 3",
    ),
    ("request/tasks/story_multihop/parameters/hops", 2, "params differ"),
    ("request/tasks/story_multihop/depth", "0.5", "params differ"),
    ("request/tasks/story_multihop/max_new_tokens", 9, "max_new_tokens is"),
    (
        "request/tasks/ruler_vt",
        {"version": 1, "parameters": {}, "depth": "uniform", "max_new_tokens": 9},
        "counts 0 samples of ruler_vt at 3500",
    ),
    ("request/length_includes_output", True, "tokens; sparse_tasks.json asks for"),
    ("request/question_position", "after", "question_position is 'both'; by sparse_tasks.json it is 'after'"),
    ("chat_template", None, "tokens; its input_tokens says"),
    ("card_sha256", "0" * 64, f"{CARD}: is missing or was changed"),
    (f"{FILE}/bytes", 9, f"bytes; {MANIFEST} says 9"),
    (f"{FILE}/rows", 1, f"{NIAH}: has 2 rows; {MANIFEST} says 1"),
    (f"{FILE}/tokens", 9, f"tokens together; {MANIFEST} says 9"),
    (f"{FILE}/sha256", "0" * 64, f"{NIAH}: does not have the recorded SHA-256"),
]


@pytest.mark.parametrize(("path", "value", "what"), SIGNED, ids=[path for path, _, _ in SIGNED])
def test_changed_manifest_is_found_by_its_content(data: Path, path: str, value: object, what: str) -> None:
    manifest = manifest_of(data)
    place, last = at(manifest, path)
    place[last] = value
    sign(data, manifest)
    problems = found(data)
    assert any(what in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"[" * 200_000, "cannot be read"),
        (b"[]", "expected `object`, not \\[\\]"),
        (b"{}", "missing required field"),
        (b'{"format": "something else"}', "sparse_tasks.json"),
    ],
)
def test_invalid_manifest_is_a_data_error(data: Path, content: bytes, words: str) -> None:
    (data / MANIFEST).write_bytes(content)
    with pytest.raises(DataError, match=words) as error:
        validate(data)
    assert str(data / MANIFEST) in str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("schema_version", "2.0", "schema_version: invalid enum value '2.0'; choose from 1.0"),
        ("request/samples", "3", 'request.samples: expected `int`, not "3"'),
        ("files/..|..|etc|passwd", {}, "files: "),
        ("request/tasks", {}, "request.tasks: "),
        ("more", 1, "more"),
    ],
)
def test_manifest_of_another_form_is_a_data_error(data: Path, path: str, value: object, words: str) -> None:
    manifest = manifest_of(data)
    place, last = at(manifest, path)
    place[last.replace("|", "/")] = value
    sign(data, manifest)
    with pytest.raises(DataError, match=r"sparse_tasks.json: ") as error:
        validate(data)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_manifest_with_a_lone_surrogate_does_not_crash(data: Path) -> None:
    manifest = manifest_of(data)
    manifest["libraries"]["faker"] = "\ud800"
    (data / MANIFEST).write_text(json.dumps(manifest))
    assert found(data) == [f"{MANIFEST}: the configuration does not have the recorded fingerprint"]


def test_huge_manifest_is_refused_unread(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (data / MANIFEST).open("r+b") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(DataError, match=r"is larger than"):
        validate(data)


def test_unfinished_folder_is_reported_with_the_command_to_resume(data: Path) -> None:
    (data / MANIFEST).rename(data / PROGRESS)
    with pytest.raises(UsageError, match=r"is not complete; give the same generate command again"):
        validate(data)


def test_other_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no data set, as it has no sparse_tasks.json"):
        validate(tmp_path)
    with pytest.raises(UsageError, match=r"is not a folder"):
        validate(tmp_path / "none")


def test_template_that_was_changed_is_found(data: Path) -> None:
    manifest = manifest_of(data)
    manifest["chat_template"]["source"] += "x"
    sign(data, manifest)
    with pytest.raises(DataError, match=r"chat_template does not have the hash"):
        validate(data)


@pytest.mark.parametrize(
    "source", ["{{ 1 / 0 }}", "{{ raise_exception('no') }}", "{% for i in range(10**9) %}{% endfor %}"]
)
def test_template_that_fails_is_found_without_a_crash(data: Path, source: str) -> None:
    manifest = manifest_of(data)
    wrapped = manifest["chat_template"]
    content = json.dumps([source, wrapped["special_tokens"]], sort_keys=True)
    manifest["chat_template"] = wrapped | {"source": source, "sha256": hashlib.sha256(content.encode()).hexdigest()}
    sign(data, manifest)
    assert any("refuses a single user message" in problem for problem in found(data))


def test_other_tokenizer_is_refused(data: Path, tokenizer_folders: dict[str, Path]) -> None:
    folder = str(tokenizer_folders["byte_level"])
    with pytest.raises(UsageError, match=r"tokenizer: .* is another one than the data set's"):
        validate(data, tokenizer=folder)
    manifest = manifest_of(data)
    manifest["tokenizer"]["sha256"] = "0" * 64
    sign(data, manifest)
    with pytest.raises(UsageError, match=r"tokenizer: 'qwen2.5' is another one than the data set's"):
        validate(data)


def test_tokenizer_elsewhere_can_be_given(
    tmp_path: Path, tokenizer_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = str(tokenizer_folders["llama"])
    request = make_request(["5000"], ["ruler_vt"], samples=1, tokenizer=source)
    generate_folder(request, load_tokenizer(source), tmp_path / "data")
    with pytest.raises(UsageError, match=r"tokenizer: 'llama' is where the data set was made; .*--tokenizer"):
        validate(tmp_path / "data")
    assert validate(tmp_path / "data", tokenizer=source).problems == []


COLUMNS = [name for name in SCHEMA.names if SCHEMA.field(name).type == pa.string() and name != "params"]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data(), column=st.sampled_from(COLUMNS), number=st.integers(0, 1))
def test_any_change_of_a_text_is_found_and_none_is_a_crash(
    good: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, column: str, number: int
) -> None:
    path = shutil.copytree(good, tmp_path_factory.mktemp("fuzz") / "data")
    name = data.draw(st.sampled_from([FILTERING, HOP, RETRIEVAL, NIAH]))
    rows = read_rows(path / name)
    text = rows[number][column]
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + data.draw(st.sampled_from([0, 3, 10**6])))))
    changed = text[:start] + data.draw(st.text(max_size=8)) + text[end:]
    rows[number][column] = changed
    rewrite(path, name, rows)
    problems = validate(path).problems
    if changed == text:
        assert problems == []
    elif column == "id":
        # The hash in it stands for the key, which validation does not have.
        assert problems == [] or all(problem.where.startswith(f"{name}, row {number}") for problem in problems)
    else:
        assert problems
    shutil.rmtree(path)
