"""Guards calibrations: kept as they were, known by hash to be of a model, and refused for another one or version."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

import transformers
from safetensors.torch import load_file, save_file

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.calibration import Calibration, calibrated, fingerprint, warn_uncalibrated
from sparse_tasks.attention.huggingface import attended_by, check_config, sparse_attention
from sparse_tasks.attention.measuring import Measuring
from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.calibrated import CalibratedMethod
from sparse_tasks.core.errors import BadFileError, UsageError

KINDS = [kind for kind in METHODS if issubclass(kind, CalibratedMethod)]
NAMES = list(dict.fromkeys(kind.family or kind.name for kind in KINDS))


def made(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=7, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=512, initializer_range=0.3,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("model"), 0)


def loaded(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def measure(name: str, folder: Path, path: Path) -> Calibration:
    """Calibrate a model on two prompts, into a file."""
    method, model = Attention.parse(name).methods[0], loaded(folder)
    assert isinstance(method, CalibratedMethod)
    run = Measuring(method, model.config, "torch")
    for seed in (1, 2):
        ids = torch.randint(64, (1, 400), generator=torch.Generator().manual_seed(seed))
        with torch.inference_mode(), attended_by(model, run):
            model(ids)
    assert (run.prompts, run.tokens) == (2, 800)
    found = Calibration(name, method.version, fingerprint(str(folder)), "2 prompts of noise", run.tensors())
    found.save(path)
    return found


@pytest.mark.parametrize("name", sorted({*NAMES} - {"kascade"}))
def test_layers_that_differ_in_query_heads_are_refused_at_the_first_prompt(name: str, folder: Path) -> None:
    method, model = Attention.parse(name).methods[0], loaded(folder)
    assert isinstance(method, CalibratedMethod)
    attention = model.model.layers[3].self_attn
    attention.q_proj, attention.o_proj = torch.nn.Linear(32, 128), torch.nn.Linear(128, 32)
    attention.num_key_value_groups = 4
    with (
        pytest.raises(UsageError, match=rf"^method: '{name}' .* differ in heads \(4 and 8\)"),
        torch.inference_mode(),
        attended_by(model, Measuring(method, model.config, "torch")),
    ):
        model(torch.arange(64)[None].repeat(1, 6))


def test_duo_attention_warns_that_heads_count_as_equal_without_a_calibration(caplog: pytest.LogCaptureFixture) -> None:
    warn_uncalibrated.cache_clear()  # other tests may have logged it
    for method in Attention.parse("duo_attention").methods:
        method.in_model(None)
    (said,) = (record.getMessage() for record in caplog.records)  # once for both phases
    assert said.startswith("duo_attention: not calibrated; all KV heads count as equal")
    assert "scores are not those of the method" in said


@pytest.mark.parametrize("name", NAMES)
def test_a_calibration_is_used_by_its_model_and_logged(
    name: str, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "c.safetensors"
    measure(name, folder, path)
    warn_uncalibrated.cache_clear()  # other tests may have had it said
    model, ids = loaded(folder), torch.randint(64, (1, 400), generator=torch.Generator().manual_seed(3))
    values, methods = {"recent": 8, "block": 16}, Attention.parse(name).methods
    short = {f"{m.name}.{field}": values[field] for m in methods for field in values.keys() & m.settings().keys()}
    given = {"sparsity": 0.5, "arguments": {f"{name}.calibration": str(path), **short}}
    with caplog.at_level(logging.WARNING, "sparse_tasks"):
        kept = []
        for options in (given, {"sparsity": 0.5, "arguments": short}):
            with torch.inference_mode(), sparse_attention(model, name, impl="torch", **options) as run:  # type: ignore[arg-type]
                out = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None, output_logits=True,
                                     return_dict_in_generate=True)  # fmt: skip
            density = run.density("decode")
            assert density is not None
            assert density.computed == pytest.approx(201 / 404, abs=0.02)
            prompt = run.density("prefill")
            assert prompt is not None
            expected = 1.0 if run.attention.prefill is None else 0.5
            whole = 16 / 400 if 16 in short.values() else 0.003  # as near as whole blocks, or tokens, come
            assert prompt.selected == pytest.approx(expected, abs=whole)
            kept.append(torch.stack(out.logits))
    assert not torch.allclose(kept[0], kept[1], atol=1e-4)
    said = [record.getMessage() for record in caplog.records]
    assert f"{name}: calibrated on 2 prompts of noise" in said
    assert any(line.startswith(f"{name}: not calibrated; ") for line in said)
    assert len(said) == len(set(said))


@pytest.mark.parametrize("name", NAMES)
def test_another_model_is_refused_before_it_is_loaded(name: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    measure(name, folder, path)
    other = made(tmp_path / "other", 1)
    attention = Attention.parse(name, sparsity=0.5, arguments={f"{name}.calibration": str(path)})
    config = transformers.AutoConfig.from_pretrained(other)
    made_for, given = fingerprint(str(folder))[:12], fingerprint(str(other))[:12]
    words = rf"^{name}\.calibration: .* was made for the model {made_for}, not {given}"
    with pytest.raises(UsageError, match=words):
        check_config("other", config, attention)
    check_config("own", transformers.AutoConfig.from_pretrained(folder), attention)


def test_a_calibration_survives_a_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    one = Calibration("m", 3, "f" * 64, "a text", {"a": torch.randn(2, 3), "b": torch.randn(2, 4).T})
    one.save(path)
    again = Calibration.load(path)
    assert (again.method, again.version, again.model, again.source) == ("m", 3, "f" * 64, "a text")
    assert all(torch.equal(again.tensors[name], one.tensors[name]) for name in ("a", "b"))
    assert again.on(torch.device("cpu")) is again.on(torch.device("cpu"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "other"}, "is for other"),
        ({"version": 2}, "has version 2, not 1"),
        ({"model": "e" * 64}, "was made for the model eeeeeeeeeeee, not"),
    ],
)
def test_a_calibration_for_something_else_is_refused(
    change: dict[str, Any], words: str, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "c.safetensors"
    given = {"method": "m", "version": 1, "model": fingerprint(str(folder)), "source": "s", "tensors": {}}
    Calibration(**given | change).save(path)
    with pytest.raises(
        UsageError, match=f"^{re.escape('m.calibration')}: .* {words}.*sparse-tasks attention calibrate m"
    ):
        calibrated(str(path), "m", 1, str(folder), None)


def test_an_invalid_file_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    with pytest.raises(BadFileError, match="cannot be read"):
        Calibration.load(path)
    path.write_bytes(b"not tensors at all")
    with pytest.raises(BadFileError, match="cannot be read"):
        Calibration.load(path)
    save_file({"a": torch.ones(2)}, path, metadata={"method": "m"})
    with pytest.raises(BadFileError, match="does not say its model"):
        Calibration.load(path)


def test_models_are_distinguished_by_any_tensor(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    loaded(folder).save_pretrained(copy)
    assert fingerprint(str(copy)) == fingerprint(str(folder))
    weights = copy / "model.safetensors"
    tensors, found = load_file(weights), {fingerprint(str(folder))}
    for name in tensors:
        changed = {**tensors, name: tensors[name] + 0.5}
        save_file(changed, weights, metadata={"format": "pt"})
        found.add(fingerprint(str(copy)))
    assert len(found) == len(tensors) + 1


def test_models_without_local_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no \.safetensors"):
        fingerprint(str(tmp_path))
    (tmp_path / "a.safetensors").write_bytes(b"12345678 no header")
    with pytest.raises(UsageError, match=r"is not a \.safetensors file"):
        fingerprint(str(tmp_path))
    attention = Attention.parse(NAMES[0], arguments={f"{NAMES[0]}.calibration": "c.safetensors"})
    with pytest.raises(UsageError, match="is not available as files"):
        attention.placed(transformers.LlamaConfig())
