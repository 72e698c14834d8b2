"""Bad input ends with exit code 2 and one line that names field, value and remedy; nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.program import contents, run

NIAH = ["-t", "ruler_niah"]

GENERATE = {
    "unknown task": (["-l", "4k", "-t", "story_retreival"], ["task", "'story_retreival'", "did you mean 'story_ret"]),
    "unknown parameter": (
        ["-l", "4k", "--set", "story_multihop.hop=3"],
        ["set", "'story_multihop.hop'", "did you mean 'hops'"],
    ),
    "parameter out of range": (
        ["-l", "4k", "--set", "story_multihop.hops=0"],
        ["story_multihop.hops", "'0'", "choose from 1..16"],
    ),
    "setting without a sign": (["-l", "4k", "--set", "story_multihop.hops"], ["set", "'story_multihop.hops'", "VALUE"]),
    "setting without a task": (["-l", "4k", "--set", "hops=3"], ["set", "'hops=3'", "TASK.PARAMETER=VALUE"]),
    "unknown locale": (["-l", "4k", "--set", "story.locale=pl_PX"], ["locale", "'pl_PX'", "did you mean 'pl_PL'"]),
    "unknown tokenizer": (["-l", "4k", "--tokenizer", "qwen"], ["tokenizer", "'qwen'", "did you mean 'qwen2.5'"]),
    "tokenizer folder without one": (["-l", "4k", "--tokenizer", "/etc"], ["tokenizer", "'/etc'", "tokenizer.json"]),
    "missing chat template": (
        ["-l", "4k", "--chat-template", "x.jinja"],
        ["chat-template", "'x.jinja'", "auto", "none"],
    ),
    "unknown preset": (["-l", "4k", "--preset", "papper"], ["preset", "'papper'", "did you mean 'paper'"]),
    "unknown position": (
        ["-l", "4k", "--question-position", "afterwards"],
        ["question-position", "'afterwards'", "after"],
    ),
    "length with an unknown unit": (["-l", "64x"], ["length", "'64x'", "65536, 64k or 1M"]),
    "length beyond the longest": (["-l", "3M"], ["length", "'3M'", "2097152"]),
    "length that holds no question": (
        ["-l", "10", *NIAH],
        ["length", "10", "ruler_niah", "the smallest that works is"],
    ),
    "length that the answer uses up": (
        ["-l", "1500", *NIAH, "--length-includes-output"],
        ["length", "1500", "ruler_niah", "the smallest that works is"],
    ),
    "no samples": (["-l", "4k", "-n", "0"], ["samples", "0", "choose from 1 to"]),
    "no workers": (["-l", "4k", "-w", "0"], ["workers", "0", "choose from 1 to 1024"]),
    "seed below zero": (["-l", "4k", "--seed", "-1"], ["seed", "-1", "choose from 0"]),
    "no room for an answer": (["-l", "4k", "--max-new-tokens", "0"], ["max-new-tokens", "0", "choose from 1"]),
    "depth beyond the end": (["-l", "4k", "--depth", "2"], ["depth", "'2'", "0.2-0.4"]),
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
    "validate: a folder of something else": (["validate", "/etc"], ["dataset", "'/etc'", "sparse_tasks.json"]),
    "validate: no workers": (["validate", "DATA", "-w", "0"], ["workers", "0", "choose from 1"]),
    "validate: unknown tokenizer": (["validate", "DATA", "--tokenizer", "qwen"], ["tokenizer", "'qwen'", "'qwen2.5'"]),
    "show: no such folder": (["show", "nowhere", "ruler_niah", "0"], ["dataset", "'nowhere'", "generate"]),
    "show: task that is not in it": (["show", "DATA", "ruler_vt", "0"], ["task", "'ruler_vt'", "ruler_niah"]),
    "show: index beyond the last": (["show", "DATA", "ruler_niah", "2"], ["index", "2", "choose from 0 to 1"]),
    "show: length that is not in it": (
        ["show", "DATA", "ruler_niah", "0", "-l", "8k"],
        ["length", "'8k'", "choose from 3k, 4k"],
    ),
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
    "unknown format": (["generate", "-l", "4k", "--format", "xml"], "'xml' is not one of"),
    "one argument too many": (["validate", "a", "b"], "unexpected extra argument"),
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
    finished = run("generate", "-l", "2k", *NIAH, "-n", "1", "-w", "1", "-o", file / "below")
    assert finished.says("output", str(file / "below"), "name a folder")
    assert finished.code == 2
    assert contents(tmp_path) == {"file": b"mine"}


def test_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    for options in ([], ["--overwrite"]):
        finished = run("generate", "-l", "2k", *NIAH, "-n", "1", "-w", "1", "-o", tmp_path, *options)
        assert finished.says("output", str(tmp_path), "thesis.tex", "name an empty or a new folder")
        assert finished.code == 2
    assert contents(tmp_path) == {"thesis.tex": b"mine"}


def test_unreadable_record_is_a_clean_error(tmp_path: Path) -> None:
    for name, text in (("sparse_tasks.json", b"{"), (".sparse_tasks.partial.json", b"\xff\xfe")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(text)
        for options in ([], ["--overwrite"]):
            finished = run("generate", "-l", "2k", *NIAH, "-n", "1", "-w", "1", "-o", folder, *options)
            assert finished.says(str(folder / name), "remove the folder or name another one")
            assert finished.code == 1
        assert list(contents(folder)) == [name]


def test_another_configuration_is_refused_unless_told_to_overwrite(tmp_path: Path) -> None:
    request = ["generate", "-l", "2k", *NIAH, "-n", "1", "-w", "1", "-o", tmp_path / "out"]
    assert run(*request).code == 0
    before = contents(tmp_path)
    for option, value in (
        ("--seed", "43"),
        ("--samples", "3"),
        ("--length", "3k"),
        ("--task", "ruler_vt"),
        ("--question-position", "after"),
        ("--chat-template", "none"),
        ("--max-new-tokens", "77"),
        ("--depth", "0.5"),
        ("--set", "ruler_niah.queries=2"),
    ):
        finished = run(*request, option, value)
        assert finished.says("output", "another configuration", "name another folder", "--overwrite")
        assert finished.code == 2
        assert contents(tmp_path) == before
    assert run(*request, option, value, "--overwrite").code == 0
    assert json.loads((tmp_path / "out/sparse_tasks.json").read_bytes()) != json.loads(before["out/sparse_tasks.json"])
    assert run("validate", tmp_path / "out", "-w", "1").code == 0


FEW_ESSAYS, BAD_TEMPLATE = b"Too short.", b'[ruler_niah_single_2]\nintro = "{key}"'
FOREIGN_TEMPLATE = b'[ruler_vt]\nintro = "In"\nquestion = "{value} {format}?"'


@pytest.mark.parametrize(
    ("option", "task", "content", "words"),
    [
        ("--essays", "ruler_niah_single_2", FEW_ESSAYS, ["texts", "holds 10 characters", "5,000"]),
        ("--template", "ruler_niah_single_2", BAD_TEMPLATE, ["template", "[ruler_niah_single_2] intro", "'keys'?"]),
        ("--essays", "ruler_niah", b"Good. " * 2_000, ["none of the tasks to generate"]),
        ("--template", "ruler_niah", FOREIGN_TEMPLATE, ["none of the tasks to generate"]),
    ],
)
def test_bad_essays_and_templates_are_refused(
    option: str, task: str, content: bytes, words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "texts").write_bytes(content)
    finished = run("generate", "-l", "4k", "-t", task, "-o", tmp_path / "data", option, tmp_path / "texts")
    assert finished.says(*words)
    assert finished.code == 2
    assert not (tmp_path / "data").exists()
