"""``attention calibrate`` on a small random model: a file that a run then takes, and what it refuses."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from sparse_tasks.core.json import read_json
from tests.cli.program import run

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        find_spec("torch") is None or find_spec("transformers") is None, reason="torch or transformers is not installed"
    ),
]


@pytest.fixture
def options(llama: Path, data: Path) -> list[str]:
    return ["--model", str(llama), "--data", str(data), "-t", "ruler_vt", "-l", "1100", "-n", "1"]


def test_a_calibration_is_measured_and_used(options: list[str], tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    reported = run("attention", "calibrate", "triattention", *options, "-o", file, "--format", "json").json()
    assert (reported["method"], reported["version"], reported["file"]) == ("triattention", 1, str(file))
    assert re.fullmatch(r"1 prompt \(1,\d{3} tokens\) of data, [0-9a-f]{12}", reported["source"])
    set_ = ["--set", f"triattention.calibration={file}", "--set", "triattention.recent=16"]
    inspected = run("attention", "inspect", *options, "-a", "triattention", "-s", ".8", "--steps", "2", *set_)
    assert inspected.code == 0, inspected.err
    assert "decode, 2 queries" in inspected.out


def test_methods_of_two_phases_share_a_calibration(
    options: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "c.safetensors"
    reported = run("attention", "calibrate", "duo_attention", *options, "-o", file)
    assert f"use it with --set duo_attention.calibration={file}" in reported.out
    set_ = ["--set", f"duo_attention.calibration={file}"]
    inspected = run("attention", "inspect", *options, "-a", "duo_attention", "-s", ".3", "--steps", "2", *set_)
    assert inspected.code == 0, inspected.err
    assert [line[:38] for line in caplog.messages] == ["duo_attention: calibrated on 1 prompt "]
    assert "prefill" in inspected.out
    assert "decode, 2 queries" in inspected.out


def test_published_gates_become_a_calibration_of_the_model(
    llama: Path, options: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = read_json(llama / "config.json")
    table = tmp_path / "some-model" / "lr" / "full_attention_heads.tsv"
    table.parent.mkdir(parents=True)
    rows = ["\t".join(f"{layer / 10:.18e}" for _ in range(sizes["num_key_value_heads"])) for layer in range(9)]
    table.write_text("\n".join(rows[: sizes["num_hidden_layers"]]) + "\n")
    file = tmp_path / "c.safetensors"
    given = ["attention", "calibrate", "duo_attention", "--model", llama, "--from", table, "-o", file]
    reported = run(*given, "--format", "json").json()
    assert re.fullmatch(
        r"some-model/lr/full_attention_heads.tsv, [0-9a-f]{12}, as it was published", reported["source"]
    )
    set_ = ["--set", f"duo_attention.calibration={file}"]
    inspected = run("attention", "inspect", *options, "-a", "duo_attention", "-s", ".3", "--steps", "2", *set_)
    assert inspected.code == 0, inspected.err
    assert caplog.messages == [f"duo_attention: calibrated on {reported['source']}"]
    table.write_text("\n".join(rows[: sizes["num_hidden_layers"] + 1]))
    refused = run(*given)
    assert refused.code == 2
    assert refused.says("from", str(table), "take the file of this model")


@pytest.mark.parametrize("given", [[], ["--data", "d", "--from", "f.tsv"]])
def test_a_calibration_comes_from_prompts_or_from_a_file(given: list[str], llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    finished = run("attention", "calibrate", "duo_attention", "--model", llama, *given, "-o", file)
    assert finished.code == 2
    assert finished.says("data", "--from instead")


def test_files_for_methods_without_a_published_format_are_refused(llama: Path, tmp_path: Path) -> None:
    given = ["attention", "calibrate", "kascade", "--model", llama, "--from", "f.tsv", "-o", tmp_path / "c.safetensors"]
    finished = run(*given)
    assert finished.code == 2
    assert finished.says("from", "f.tsv", "kascade", "--data")


@pytest.mark.parametrize(
    ("method", "file", "words"),
    [
        ("quest", "c.safetensors", ["method", "quest", "takes no calibration"]),
        ("duo_attention_prefill+quest", "c.safetensors", ["method", "quest", "takes no calibration"]),
        ("triattention", "c.bin", ["output", "c.bin", ".safetensors"]),
        ("triatention", "c.safetensors", ["triattention"]),
    ],
)
def test_bad_input_is_reported(method: str, file: str, words: list[str], options: list[str], tmp_path: Path) -> None:
    finished = run("attention", "calibrate", method, *options, "-o", tmp_path / file)
    assert finished.code == 2
    assert finished.says(*words)
    assert not (tmp_path / file).exists()
