"""Bad input ends with exit code 2 and one line that names field, value and remedy; nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.program import contents, run

NIAH = ["-t", "ruler_niah"]

# A command line, and what its one line of error holds; the values themselves are tested with the rooms that read them.
REFUSED = [
    ("generate -l 4k -t story_retreival", "task", "'story_retreival'", "did you mean 'story_ret"),
    ("generate -l 4k --set story_multihop.hop=3", "set", "'story_multihop.hop'", "did you mean 'hops'"),
    ("generate -l 4k --set story_multihop.hops=0", "story_multihop.hops", "'0'", "choose from 1..16"),
    ("generate -l 4k --set story_multihop.hops", "set", "'story_multihop.hops'", "VALUE"),
    ("generate -l 4k --set story.locale=pl_PX", "locale", "'pl_PX'", "did you mean 'pl_PL'"),
    ("generate -l 4k --tokenizer qwen", "tokenizer", "'qwen'", "did you mean 'qwen2.5'"),
    ("generate -l 4k --tokenizer /etc", "tokenizer", "'/etc'", "tokenizer.json"),
    ("generate -l 4k --chat-template x.jinja", "chat-template", "'x.jinja'", "auto", "none"),
    ("generate -l 4k --preset papper", "preset", "'papper'", "did you mean 'paper'"),
    ("generate -l 4k --question-position afterwards", "question-position", "'afterwards'", "after"),
    ("generate -l 64x", "length", "'64x'", "65536, 64k or 1M"),
    ("generate -l 3M", "length", "'3M'", "2097152"),
    ("generate -l 10 -t ruler_niah", "length", "10", "ruler_niah", "the smallest that works is"),
    ("generate -l 10 -t ruler_niah --dry-run", "length", "10", "the smallest that works is"),
    ("generate -l 1500 -t ruler_niah --length-includes-output", "length", "1500", "the smallest that works is"),
    ("generate -l 4k -n 0", "samples", "0", "choose from 1 to"),
    ("generate -l 4k -w 0", "workers", "0", "choose from 1 to 1024"),
    ("generate -l 4k --seed -1", "seed", "-1", "choose from 0"),
    ("generate -l 4k --max-new-tokens 0", "max-new-tokens", "0", "choose from 1"),
    ("generate -l 4k --depth 2", "depth", "'2'", "0.2-0.4"),
    ("generate -l 4k -t ruler_cwe --depth 0.5", "depth", "'0.5'", "ruler_cwe"),
    ("validate nowhere", "data", "'nowhere'", "name one written by generate"),
    ("validate /etc", "data", "'/etc'", "sparse_tasks.json"),
    ("validate DATA -w 0", "workers", "0", "choose from 1"),
    ("validate DATA --tokenizer qwen", "tokenizer", "'qwen'", "'qwen2.5'"),
    ("show nowhere ruler_niah 0", "data", "'nowhere'", "generate"),
    ("show DATA ruler_vt 0", "task", "'ruler_vt'", "ruler_niah"),
    ("show DATA ruler_niah 2", "index", "2", "choose from 0 to 1"),
    ("show DATA ruler_niah 0 -l 8k", "length", "'8k'", "choose from 3k, 4k"),
    ("EVALUATE --limit 0", "limit", "0", "at least 1"),
    ("EVALUATE --temperature -1", "temperature", "-1.0", "greedy"),
    ("EVALUATE --temperature nan", "temperature", "nan"),
    ("EVALUATE --seed -1", "seed", "-1", "from 0"),
    ("EVALUATE --max-new-tokens 0", "max-new-tokens", "0", "at least 1"),
    ("EVALUATE --engine replai", "engine", "'replai'", "did you mean 'replay'"),
    ("EVALUATE --engine-arg fast", "engine-arg", "'fast'", "KEY=VALUE"),
    ("EVALUATE --engine-arg x=1", "engine-arg", "'x=1'", "replay takes only model=NAME"),
    ("EVALUATE --engine-arg x=NaN", "engine-arg", "x=NaN"),
    ("evaluate DATA --engine replay -o run --model nowhere.jsonl", "model", "'nowhere.jsonl'", "JSONL file"),
    (f"evaluate DATA --engine replay -o run --model {'m' * 300}", "model", "JSONL file"),
    ("EVALUATE -t ruler_nia", "task", "'ruler_nia'", "did you mean 'ruler_niah'"),
    ("EVALUATE -t ruler_vt", "task", "'ruler_vt'", "is unknown"),
    ("EVALUATE -l 8k", "length", "'8k'", "choose from 3k, 4k"),
    ("EVALUATE -o /etc/hosts", "output", "'/etc/hosts'", "name a folder"),
    ("evaluate nowhere --engine replay -m GOLD", "data", "'nowhere'", "name one written by generate", "ORG/NAME"),
    ("evaluate no-such/data --engine replay -m GOLD", "data", "'no-such/data'", "the Hub cannot be reached"),
    ("evaluate /etc --engine replay -m GOLD", "data", "'/etc'", "sparse_tasks.json"),
    ("score nowhere", "run", "'nowhere'", "holds no run.json", "written by evaluate"),
    ("score /etc/hosts", "run", "'/etc/hosts'", "holds no run.json"),
]


@pytest.mark.parametrize(("line", "words"), [(line, words) for line, *words in REFUSED])
def test_bad_input_is_one_line_and_writes_nothing(
    line: str, words: list[str], data: Path, gold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = line.replace("EVALUATE", "evaluate DATA --engine replay --model GOLD -o run")
    finished = run(*line.replace("DATA", str(data)).replace("GOLD", str(gold)).split())
    assert finished.says(*words)
    assert finished.code == 2
    assert contents(tmp_path) == {}


# Errors that typer itself finds: it prints how the command is used, and says what is wrong in a box.
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("generate -l 4k --sample 3", "No such option: --sample"),
        ("generate", "Missing option '--length'"),
        ("generate -l 4k -n many", "'--samples'"),
        ("generate -l 4k --format xml", "'xml' is not one of"),
        ("validate a b", "unexpected extra argument"),
        ("generates", "No such command 'generates'"),
    ],
)
def test_usage_errors_read_well(line: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    finished = run(*line.split())
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


def test_another_configuration_is_refused_without_overwrite(tmp_path: Path) -> None:
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
        assert finished.says("output", "other options", "name another folder", "--overwrite")
        assert finished.code == 2
        assert contents(tmp_path) == before
    assert run(*request, option, value, "--overwrite").code == 0
    assert json.loads((tmp_path / "out/sparse_tasks.json").read_bytes()) != json.loads(before["out/sparse_tasks.json"])
    assert run("validate", tmp_path / "out", "-w", "1").code == 0
