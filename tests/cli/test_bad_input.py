"""Bad input ends with exit code 2 and one line that names field, value and remedy; nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.program import contents, run

NIAH = ["-t", "ruler_niah"]

GENERATE = {
    "unknown task": (["-l", "4k", "-t", "story_retreival"], ["task", "'story_retreival'", "did you mean 'story_ret"]),
    "unknown group": (["-l", "4k", "-t", "stori"], ["task", "'stori'", "did you mean 'story'"]),
    "nothing like a task": (["-l", "4k", "-t", "xyz"], ["task", "'xyz'", "choose from all, "]),
    "empty task": (["-l", "4k", "-t", ""], ["task", "''", "choose from"]),
    "unknown parameter": (
        ["-l", "4k", "--set", "story_multihop.hop=3"],
        ["set", "'story_multihop.hop'", "did you mean 'hops'"],
    ),
    "parameter out of range": (
        ["-l", "4k", "--set", "story_multihop.hops=0"],
        ["story_multihop.hops", "'0'", "choose from 1..16"],
    ),
    "parameter that is no number": (
        ["-l", "4k", "--set", "story_multihop.hops=three"],
        ["story_multihop.hops", "'three'", "choose from 1..16"],
    ),
    "setting without a sign": (["-l", "4k", "--set", "story_multihop.hops"], ["set", "'story_multihop.hops'", "VALUE"]),
    "setting without a task": (["-l", "4k", "--set", "hops=3"], ["set", "'hops=3'", "TASK.PARAMETER=VALUE"]),
    "setting of an unknown task": (
        ["-l", "4k", "--set", "story_multihob.hops=3"],
        ["set", "story_multihob", "did you mean 'story_multihop'"],
    ),
    "setting of a task that is not made": (
        ["-l", "4k", *NIAH, "--set", "story.locale=pl_PL"],
        ["set", "'story.locale'", "not among the tasks"],
    ),
    "unknown locale": (["-l", "4k", "--set", "story.locale=pl_PX"], ["locale", "'pl_PX'", "did you mean 'pl_PL'"]),
    "unknown tokenizer": (["-l", "4k", "--tokenizer", "qwen"], ["tokenizer", "'qwen'", "did you mean 'qwen2.5'"]),
    "tokenizer folder without one": (["-l", "4k", "--tokenizer", "/etc"], ["tokenizer", "'/etc'", "tokenizer.json"]),
    "tokenizer file that is none": (["-l", "4k", "--tokenizer", "/etc/hosts"], ["tokenizer", "'/etc/hosts'"]),
    "tokenizer that the Hub cannot give": (["-l", "4k", "--tokenizer", "no-such/model"], ["tokenizer", "'no-such/mo"]),
    "missing chat template": (
        ["-l", "4k", "--chat-template", "x.jinja"],
        ["chat-template", "'x.jinja'", "auto", "none"],
    ),
    "unknown preset": (["-l", "4k", "--preset", "papper"], ["preset", "'papper'", "did you mean 'paper'"]),
    "unknown position": (
        ["-l", "4k", "--question-position", "afterwards"],
        ["question-position", "'afterwards'", "after"],
    ),
    "length of nothing": (["-l", "0"], ["length", "'0'", "choose from 1 to 2097152"]),
    "length with an unknown unit": (["-l", "64x"], ["length", "'64x'", "65536, 64k or 1M"]),
    "length below zero": (["-l", "-5"], ["length", "'-5'", "65536, 64k or 1M"]),
    "empty length": (["-l", ""], ["length", "''", "65536, 64k or 1M"]),
    "length beyond the longest": (["-l", "3M"], ["length", "'3M'", "2097152"]),
    "a good length and a bad one": (["-l", "4k", "-l", "4kk"], ["length", "'4kk'"]),
    "length that holds no question": (
        ["-l", "10", *NIAH],
        ["length", "10", "ruler_niah", "the smallest that works is"],
    ),
    "length that the answer uses up": (
        ["-l", "1500", *NIAH, "--length-includes-output"],
        ["length", "1500", "ruler_niah", "the smallest that works is"],
    ),
    "no samples": (["-l", "4k", "-n", "0"], ["samples", "0", "choose from 1 to"]),
    "too many samples": (["-l", "4k", "-n", "9999999"], ["samples", "9999999", "choose from 1 to 1000000"]),
    "no workers": (["-l", "4k", "-w", "0"], ["workers", "0", "choose from 1 to 1024"]),
    "seed below zero": (["-l", "4k", "--seed", "-1"], ["seed", "-1", "choose from 0"]),
    "seed beyond 63 bits": (["-l", "4k", "--seed", str(2**63)], ["seed", str(2**63), "choose from 0"]),
    "no room for an answer": (["-l", "4k", "--max-new-tokens", "0"], ["max-new-tokens", "0", "choose from 1"]),
    "depth beyond the end": (["-l", "4k", "--depth", "2"], ["depth", "'2'", "0.2-0.4"]),
    "depth range backwards": (["-l", "4k", "--depth", "0.9-0.1"], ["depth", "'0.9-0.1'", "0.2-0.4"]),
    "depth of a task that has none": (
        ["-l", "4k", "-t", "ruler_cwe", "--depth", "0.5"],
        ["depth", "'0.5'", "ruler_cwe"],
    ),
}


@pytest.mark.parametrize(("arguments", "words"), GENERATE.values(), ids=GENERATE.keys())
def test_generate_refuses(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    finished = run("generate", *arguments, "-o", tmp_path / "out")
    assert finished.says(*words)
    assert finished.code == 2
    assert contents(tmp_path) == {}


def test_smallest_length_that_works_is_the_smallest_and_works(tmp_path: Path) -> None:
    few = [*NIAH, "-n", "3", "-w", "1", "-o", tmp_path / "out"]
    told = int(run("generate", "-l", "10", *few).err.split()[-1])
    assert run("generate", "-l", told - 1, *few).code == 2
    assert run("generate", "-l", told, *few).code == 0


OTHERS = {
    "validate: no such folder": (["validate", "nowhere"], ["dataset", "'nowhere'", "name one that generate"]),
    "validate: a file": (["validate", "/etc/hosts"], ["dataset", "'/etc/hosts'", "name one that generate"]),
    "validate: a folder of something else": (["validate", "/etc"], ["dataset", "'/etc'", "sparse_tasks.json"]),
    "validate: no workers": (["validate", "DATA", "-w", "0"], ["workers", "0", "choose from 1"]),
    "validate: unknown tokenizer": (["validate", "DATA", "--tokenizer", "qwen"], ["tokenizer", "'qwen'", "'qwen2.5'"]),
    "show: no such folder": (["show", "nowhere", "ruler_niah", "0"], ["dataset", "'nowhere'", "generate"]),
    "show: a folder of something else": (["show", "/etc", "ruler_niah", "0"], ["dataset", "'/etc'", "generate"]),
    "show: task that is not in it": (["show", "DATA", "ruler_vt", "0"], ["task", "'ruler_vt'", "ruler_niah"]),
    "show: misspelt task": (["show", "DATA", "ruler_nia", "0"], ["task", "'ruler_nia'", "did you mean 'ruler_niah'"]),
    "show: index beyond the last": (["show", "DATA", "ruler_niah", "2"], ["index", "2", "choose from 0 to 1"]),
    "show: index below zero": (["show", "DATA", "ruler_niah", "--", "-1"], ["index", "-1", "choose from 0 to 1"]),
    "show: length that is not in it": (
        ["show", "DATA", "ruler_niah", "0", "-l", "8k"],
        ["length", "'8k'", "choose from 3k, 4k"],
    ),
    "show: length that is none": (["show", "DATA", "ruler_niah", "0", "-l", "8x"], ["length", "'8x'", "64k"]),
}


@pytest.mark.parametrize(("arguments", "words"), OTHERS.values(), ids=OTHERS.keys())
def test_other_commands_refuse(arguments: list[str], words: list[str], data: Path) -> None:
    finished = run(*[str(data) if argument == "DATA" else argument for argument in arguments])
    assert finished.says(*words)
    assert finished.code == 2


# What typer itself finds out: it prints how the command is used, and says what is wrong in a box.
USAGE = {
    "unknown option": (["generate", "-l", "4k", "--sample", "3"], "No such option: --sample"),
    "missing length": (["generate"], "Missing option '--length'"),
    "samples that are no number": (["generate", "-l", "4k", "-n", "many"], "'--samples'"),
    "seed that is no number": (["generate", "-l", "4k", "--seed", "1.5"], "'--seed'"),
    "unknown format": (["generate", "-l", "4k", "--format", "xml"], "'xml' is not one of"),
    "one argument too many": (["validate", "a", "b"], "unexpected extra argument"),
    "missing folder": (["validate"], "Missing argument 'DIR'"),
    "missing index": (["show", "a", "b"], "Missing argument 'INDEX'"),
    "index that is no number": (["show", "a", "b", "first"], "'INDEX'"),
    "unknown command": (["generates"], "No such command 'generates'"),
}


@pytest.mark.parametrize(("arguments", "words"), USAGE.values(), ids=USAGE.keys())
def test_usage_errors_read_well(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finished = run(*arguments)
    assert finished.code == 2
    assert finished.out == ""
    assert "Traceback" not in finished.err
    assert words in " ".join(finished.err.split())
    assert "-h' for help" in finished.err
    assert contents(tmp_path) == {}


def test_output_that_is_a_file_is_bad_input(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for output in (file, file / "below"):
        finished = run("generate", "-l", "2k", *NIAH, "-n", "1", "-w", "1", "-o", output)
        assert finished.says("output", str(output), "name a folder")
        assert finished.code == 2
    assert contents(tmp_path) == {"file": b"mine"}


def test_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    for options in ([], ["--overwrite"]):
        finished = run("generate", "-l", "2k", *NIAH, "-n", "1", "-w", "1", "-o", tmp_path, *options)
        assert finished.says("output", str(tmp_path), "thesis.tex", "name an empty or a new folder")
        assert finished.code == 2
    assert contents(tmp_path) == {"thesis.tex": b"mine"}


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"fingerprint": "x"}', '{"fingerprint": "x", "files": []}', "[" * 100_000, "\xff\xfe"]
)
def test_unreadable_record_is_a_clean_error(tmp_path: Path, text: str) -> None:
    for name in ("sparse_tasks.json", ".sparse_tasks.partial.json"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(text.encode("latin-1"))
        for options in ([], ["--overwrite"]):
            finished = run("generate", "-l", "2k", *NIAH, "-n", "1", "-w", "1", "-o", folder, *options)
            assert finished.says(str(folder / name), "remove the folder or name another one")
            assert finished.code == 1
        assert list(contents(folder)) == [name]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--seed", "43"),
        ("--samples", "3"),
        ("--length", "3k"),
        ("--task", "ruler_vt"),
        ("--set", "ruler_niah.queries=2"),
        ("--question-position", "after"),
        ("--chat-template", "none"),
        ("--max-new-tokens", "77"),
        ("--depth", "0.5"),
    ],
)
def test_another_configuration_is_refused(tmp_path: Path, option: str, value: str) -> None:
    request = ["generate", "-l", "2k", *NIAH, "-n", "1", "-w", "1", "-o", tmp_path / "out"]
    assert run(*request).code == 0
    before = contents(tmp_path)
    finished = run(*request, option, value)
    assert finished.says("output", "another configuration", "name another folder", "--overwrite")
    assert finished.code == 2
    assert contents(tmp_path) == before
    assert run(*request, option, value, "--overwrite").code == 0
    assert json.loads((tmp_path / "out/sparse_tasks.json").read_bytes()) != json.loads(before["out/sparse_tasks.json"])
    assert run("validate", tmp_path / "out", "-w", "1").code == 0


ESSAYS = ["-l", "4k", "-t", "ruler_niah_single_2"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["holds 0 characters"]),
        (b"Too short.", ["holds 10 characters", "5,000"]),
        (b"\xff\xfe" + b"x\x00" * 9_000, ["line 1", "no UTF-8"]),
        (b"Good. " * 2_000 + b"\n\x00\x01", ["line 2", "control character 0x0"]),
        (b"x" * 100_000, ["line 1", "a word of 1,000 characters"]),
    ],
)
def test_bad_essays_are_refused(content: bytes, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "essays.txt").write_bytes(content)
    finished = run("generate", *ESSAYS, "-o", tmp_path / "data", "--essays", tmp_path / "essays.txt")
    assert finished.code == 2
    assert finished.says("essays", str(tmp_path / "essays.txt"), *words)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["is empty"]),
        (b"[ruler_niah_single_2", ["is no TOML", "line 1"]),
        (b"\xff", ["line 1", "no UTF-8"]),
        (b"[ruler_niah_singel_2]", ["[ruler_niah_singel_2]", "did you mean 'ruler_niah_single_2'?"]),
        (b'[ruler_niah_single_2]\nintro = "{key}"', ["[ruler_niah_single_2] intro", "did you mean 'keys'?"]),
        (b'[ruler_niah_single_2]\nintro = "In"\nquestion = "What?"', ["[ruler_niah_single_2] question", "{keys}"]),
        (b'[ruler_niah_single_2]\nintro = "In"\nquestion = "{keys}?"', ["[ruler_niah_single_2] question", "{format}"]),
    ],
)
def test_bad_templates_are_refused(content: bytes, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_bytes(content)
    finished = run("generate", *ESSAYS, "-o", tmp_path / "data", "--template", tmp_path / "t.toml")
    assert finished.code == 2
    assert finished.says("template", *words)
    assert not (tmp_path / "data").exists()


def test_essays_and_templates_for_other_tasks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "essays.txt").write_text("Good. " * 2_000)
    (tmp_path / "t.toml").write_text('[ruler_vt]\nintro = "In"\nquestion = "{value} {format}?"')
    for option, file in (("--essays", "essays.txt"), ("--template", "t.toml")):
        finished = run("generate", "-l", "4k", *NIAH, "-o", tmp_path / "data", option, tmp_path / file)
        assert finished.code == 2
        assert finished.says("none of the tasks to generate")
