"""Guards the command line that starts a server: what the user said is in it once, and what cannot be is refused."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.vllm.arguments import MIDDLEWARE, WORKER, parse_offer, parse_self_test
from sparse_tasks.core.errors import BadFileError, UsageError
from sparse_tasks.evaluators import serving
from sparse_tasks.evaluators.engines import vllm
from sparse_tasks.evaluators.engines.engine import ENGINES, EngineSettings
from sparse_tasks.evaluators.models import find_model
from sparse_tasks.evaluators.serving import serve_command
from tests.cli.program import run

Refused = Callable[..., Any]


def missing(name: str) -> str:
    raise PackageNotFoundError(name)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """VLLM's build for GPUs is installed."""
    monkeypatch.setattr(serving, "find_spec", lambda name: object())
    monkeypatch.setattr(serving, "version", lambda name: "0.32.0")
    monkeypatch.setattr(serving, "slow_on_cpu", lambda dtype: dtype == "bfloat16")
    return monkeypatch


@pytest.fixture
def cpu(gpu: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The build for CPUs is, which is called otherwise."""
    gpu.setattr(serving, "version", missing)
    gpu.setattr(serving, "share_cpu", lambda: None)
    return gpu


def options(command: list[str]) -> dict[str, str]:
    return {word: value for word, value in pairwise(command) if word.startswith("--")}


@pytest.mark.usefixtures("gpu")
def test_the_server_command_names_the_methods(model: Path) -> None:
    command = serve_command(str(model), ["quest", "snapkv"], 0.9, {"quest.page": 8}, ["--port", "8001"])
    assert command[:5] == [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(model)]
    assert command[-2:] == ["--port", "8001"]  # the user's go last, and so before ours
    found = options(command)
    assert (found["--middleware"], found["--worker-cls"]) == (MIDDLEWARE, WORKER)
    assert found["--served-model-name"] == str(model)
    assert "--no-enable-prefix-caching" in command  # for snapkv
    offer = parse_offer(json.loads(found["--additional-config"]))
    assert offer.attention == Attention.parse("quest", sparsity=0.9, arguments={"quest.page": 8})
    assert [choice.label for choice in offer.choices] == ["quest-0.9", "snapkv-0.9"]
    assert offer.choose(sparsity=0.5).sparsity == 0.5
    assert "--enforce-eager" not in command
    assert parse_self_test(json.loads(found["--additional-config"]))
    left_out = options(serve_command(str(model), ["quest"], 0.9, {}, [], self_test=False))
    assert not parse_self_test(json.loads(left_out["--additional-config"]))


CALIBRATED = {"duo_attention.calibration": "nowhere.safetensors"}


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    "given",
    [["--tensor-parallel-size", "2"], ["--tensor-parallel-size=2"], ["--tensor_parallel_size", "2"], ["-tp", "2"],
     ["-tp=2"], ["--port", "8001", "-tp", "1", "-tp", "2", "--enforce-eager"]],
)  # fmt: skip
@pytest.mark.parametrize("methods", [["duo_attention"], ["quest", "duo_attention"]])
def test_a_calibration_and_several_devices_are_refused_before_a_server_starts(
    model: Path, given: list[str], methods: list[str]
) -> None:
    with pytest.raises(UsageError, match=r"^tensor_parallel_size: 2 gives each device only some of the heads") as error:
        serve_command(str(model), methods, 0.9, CALIBRATED, given)
    assert error.value.exit_code == 2


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("given", [[], ["-tp", "1"], ["--tensor-parallel-size"], ["-tp", "two"], ["--port", "2"]])
def test_a_calibration_and_one_device_go_together(model: Path, given: list[str]) -> None:
    command = serve_command(str(model), ["duo_attention"], 0.9, CALIBRATED, given)
    assert command[len(command) - len(given) :] == given


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], list[str]]:
    """Options of vLLM's server with a file of further ones."""

    def written(text: str) -> list[str]:
        (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
        return ["--config", str(tmp_path / "config.yaml")]

    return written


Config = Callable[[str], list[str]]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", ["tensor-parallel-size", "tensor_parallel_size"])
def test_the_number_of_devices_is_read_from_a_config_file(model: Path, config: Config, name: str) -> None:
    given = config(f"port: 8001\n{name}: 2\n")
    with pytest.raises(UsageError, match=r"^tensor_parallel_size: 2 gives each device only some of the heads"):
        serve_command(str(model), ["duo_attention"], 0.9, CALIBRATED, given)
    given += ["-tp", "1"]  # which overrides it
    assert serve_command(str(model), ["duo_attention"], 0.9, CALIBRATED, given)[-len(given) :] == given


@pytest.mark.usefixtures("cpu")
def test_a_config_file_overrides_our_options(model: Path, config: Config) -> None:
    """VLLM lets the command line override its file, so ours have to be left out."""
    given = config("served_model_name: other\nenforce-eager: false\nenable-prefix-caching: false\nmiddleware: [a.B]")
    command = serve_command(str(model), ["snapkv"], 0.9, {}, given)
    ours = {word for word in serve_command(str(model), ["snapkv"], 0.9, {}, []) if word.startswith("--")}
    assert ours - set(command) == {"--served-model-name", "--enforce-eager", "--no-enable-prefix-caching"}
    assert command.count(str(model)) == 1  # the model, not its name
    assert MIDDLEWARE in command  # beside the user's


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("text", ["", "- port", "port: [8001", "\x07"])
def test_a_config_file_that_cannot_be_read_is_refused(model: Path, config: Config, text: str, refused: Refused) -> None:
    with refused(BadFileError, "config: ", "config.yaml"):
        serve_command(str(model), ["quest"], 0.9, {}, config(text))


@pytest.mark.usefixtures("gpu")
def test_a_config_file_that_vllm_would_ignore_is_refused(model: Path, tmp_path: Path, refused: Refused) -> None:
    with refused(BadFileError, "No such file or directory"):
        serve_command(str(model), ["quest"], 0.9, {}, ["--config", str(tmp_path / "none.yaml")])
    with refused(UsageError, "config: 'a.yaml' is ignored by vLLM; write --config FILE"):
        serve_command(str(model), ["quest"], 0.9, {}, ["--config=a.yaml"])
    assert serve_command(str(model), ["quest"], 0.9, {}, ["--config"])[-1] == "--config"  # which vLLM refuses


@pytest.mark.usefixtures("gpu")
def test_without_a_calibration_several_devices_are_served(model: Path) -> None:
    assert serve_command(str(model), ["quest"], 0.9, {}, ["-tp", "2"])[-2:] == ["-tp", "2"]


@pytest.mark.usefixtures("gpu")
def test_a_server_that_frees_blocks_has_one_method_for_all(model: Path) -> None:
    command = serve_command(str(model), ["window_evict"], 0.9, {}, [], free_blocks=True)
    offer = parse_offer(json.loads(options(command)["--additional-config"]))
    assert (offer.attention.label, offer.choices, offer.free_blocks) == ("window_evict-0.9", (), True)
    for names in (["window_evict", "quest"], ["dense"]):
        with pytest.raises(UsageError, match=r"^free-blocks: True needs one method for all requests"):
            serve_command(str(model), names, None, {}, [], free_blocks=True)
    with pytest.raises(UsageError, match=r"^free_blocks: True does not go with quest"):
        serve_command(str(model), ["quest"], 0.9, {}, [], free_blocks=True)


@pytest.mark.parametrize("engine", ["transformers", "openai", "replay"])
def test_engines_that_cannot_free_blocks_are_refused(model: Path, engine: str) -> None:
    settings = EngineSettings(find_model(str(model)), free_blocks=True)
    with pytest.raises(
        UsageError, match=rf"^free-blocks: True is not for the engine {engine}; choose --engine from vllm"
    ):
        ENGINES.get(engine)(settings)


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize(("config", "dtype"), [("{}", True), ('{"dtype": "float32"}', False), ("no json", True)])
def test_on_a_cpu_the_server_is_started_past_the_command_that_fails_there(
    tmp_path: Path, config: str, dtype: bool
) -> None:
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    command = serve_command(str(tmp_path), ["quest"], 0.9, {}, [])
    assert command[:4] == [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model"]
    assert "--enforce-eager" in command
    assert (options(command).get("--dtype") == "float32") == dtype  # where the processor lacks the other


@pytest.mark.usefixtures("gpu")
def test_dense_attention_alone_is_vllms_own(model: Path) -> None:
    """Which takes models that no method does."""
    command = serve_command(str(model), ["dense"], None, {}, [])
    assert not {"--middleware", "--worker-cls", "--additional-config"} & set(command)
    beside = parse_offer(
        json.loads(options(serve_command(str(model), ["dense", "quest"], 0.9, {}, []))["--additional-config"])
    )
    assert beside.attention == Attention.DENSE
    assert beside.choose("quest") == Attention.parse("quest", sparsity=0.9)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("attentions", "sparsity", "arguments", "field"),
    [
        (["qest"], None, {}, "attention"),
        (["quest", "qest"], 0.5, {}, "attention"),
        (["quest"], 1.5, {}, "sparsity"),
        (["dense"], 0.5, {}, "sparsity"),
        (["quest"], None, {"snapkv.window": 8}, "set"),
        (["dense"], None, {"quest.page": 8}, "argument"),
    ],
)
def test_unsupported_options_are_refused_before_the_start(
    model: Path, attentions: list[str], sparsity: float | None, arguments: dict[str, object], field: str
) -> None:
    with pytest.raises(UsageError) as caught:
        serve_command(str(model), attentions, sparsity, arguments, [])
    assert caught.value.field == field


def test_missing_vllm_is_reported(gpu: pytest.MonkeyPatch, model: Path, refused: Refused) -> None:
    gpu.setattr(serving, "find_spec", lambda name: None)
    with refused(UsageError, "needs vLLM; install"):
        serve_command(str(model), ["quest"], None, {}, [])


def test_unsupported_attention_is_refused_before_vllm_is_required(
    gpu: pytest.MonkeyPatch, model: Path, refused: Refused
) -> None:
    for place in (serving, vllm):
        gpu.setattr(place, "find_spec", lambda name: None)
    with refused(UsageError, "which vLLM does not do within a request"):
        serve_command(str(model), ["quest", "kvzip"], None, {}, [])
    found = find_model(str(model))
    with refused(UsageError, "which vLLM does not do within a request"):
        vllm.VllmEngine(EngineSettings(found, attention=Attention.parse("vertical_slash+kvzip", sparsity=0.5)))
    with refused(UsageError, "needs vLLM; install"):
        vllm.VllmEngine(EngineSettings(found, attention=Attention.parse("quest", sparsity=0.5)))


def test_vllms_errors_are_reduced_to_their_message() -> None:
    pydantic = (
        "1 validation error for VllmConfig\n  Value error, heads (9) must be divisible by 2. [type=value_error, "
        "input_value=1]\n    For further information visit https://errors.pydantic.dev/2.14/v/value_error"
    )
    assert vllm._last_line(ValueError(pydantic)) == "heads (9) must be divisible by 2."
    assert vllm._last_line(OSError("first\n second \n")) == "second"
    assert vllm._last_line(ValueError()) == "ValueError"


def test_the_command_becomes_the_server(gpu: pytest.MonkeyPatch, model: Path) -> None:
    became: list[list[str]] = []
    gpu.setattr(os, "execv", lambda path, command: became.append(command))
    done = run(
        "serve", model, "-a", "quest, snapkv", "-s", "0.5", "--set", "quest.page=8", "--max-model-len", "99", "-O3"
    )
    assert (done.code, done.out) == (0, "")
    (command,) = became
    assert command[-3:] == ["--max-model-len", "99", "-O3"]
    assert "vllm.entrypoints.cli.main serve" in done.err  # which can be seen
    assert parse_offer(json.loads(options(command)["--additional-config"])).attention.label == "quest-0.5"
    assert run("serve", model, "-a", "qest").code == 2
    assert len(became) == 1
