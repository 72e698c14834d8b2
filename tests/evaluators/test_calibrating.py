"""``attention calibrate`` on a small random model: a file that a run then takes, and what it refuses."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

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


def test_a_calibration_is_measured_and_taken(options: list[str], tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    told = run("attention", "calibrate", "triattention", *options, "-o", file, "--format", "json").json()
    assert (told["method"], told["version"], told["file"]) == ("triattention", 1, str(file))
    assert re.fullmatch(r"1 prompt \(1,\d{3} tokens\) of data, [0-9a-f]{12}", told["source"])
    set_ = ["--set", f"triattention.calibration={file}", "--set", "triattention.recent=16"]
    inspected = run("attention", "inspect", *options, "-a", "triattention", "-s", ".8", "--steps", "2", *set_)
    assert inspected.code == 0, inspected.err
    assert "decode, 2 queries" in inspected.out


def test_methods_of_two_phases_share_a_calibration(
    options: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "c.safetensors"
    told = run("attention", "calibrate", "duo_attention", *options, "-o", file)
    assert f"use it with --set duo_attention.calibration={file}" in told.out
    set_ = ["--set", f"duo_attention.calibration={file}"]
    inspected = run("attention", "inspect", *options, "-a", "duo_attention", "-s", ".3", "--steps", "2", *set_)
    assert inspected.code == 0, inspected.err
    assert [line[:38] for line in caplog.messages] == ["duo_attention: calibrated on 1 prompt "]
    assert "prefill" in inspected.out
    assert "decode, 2 queries" in inspected.out


@pytest.mark.parametrize(
    ("method", "file", "words"),
    [
        ("quest", "c.safetensors", ["method", "quest", "takes no calibration"]),
        ("duo_attention_prefill+quest", "c.safetensors", ["method", "quest", "takes no calibration"]),
        ("triattention", "c.bin", ["output", "c.bin", ".safetensors"]),
        ("triatention", "c.safetensors", ["triattention"]),
    ],
)
def test_bad_input_is_told(method: str, file: str, words: list[str], options: list[str], tmp_path: Path) -> None:
    finished = run("attention", "calibrate", method, *options, "-o", tmp_path / file)
    assert finished.code == 2
    assert finished.says(*words)
    assert not (tmp_path / file).exists()
