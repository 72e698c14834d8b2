"""What sparse attention needs of every supported release of vLLM, in a minute.

Continuous integration runs it under the oldest release (``scripts/vllm-matrix --short``), and under the newest one all
that this is a part of.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.core.tokenizers import load_tokenizer
from tests.attention.vllm.test_engine import FEW_BLOCKS, FILLER, NOTHING_LEFT_OUT, OPTIONS, gap, of, run
from tests.attention.vllm.test_engine import pytestmark as of_engines

pytestmark = [*of_engines, pytest.mark.nightly]

METHODS = {"vertical_slash": "prefill", "quest": "decode", "snapkv": "decode"}  # and where each is sparse


@pytest.fixture(scope="module")
def done(short_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Answers by engine and run. The engine tests itself at its start, under the first method and quest."""
    ids = load_tokenizer(str(short_demo), "none").ids
    asked = {"prompts": [ids(FILLER * n + "The capital of France is") for n in (2, 20)], "tokens": 4}
    runs = {"dense": asked | {"attention": {"attention": "dense"}}}
    for name in METHODS:
        runs[name] = asked | {"attention": of(name, 0.7)}
        runs[f"{name} whole"] = asked | {"attention": of(name, NOTHING_LEFT_OUT)}
    options = OPTIONS | FEW_BLOCKS | {"model": str(short_demo)}
    engines = {
        "own": {"attention": None, "options": options, "runs": {"dense": asked}},
        "sparse": {"attention": of("vertical_slash+quest", 0.5), "options": options, "runs": runs},
    }
    return run(tmp_path_factory.mktemp("engine"), {"models": [], "engines": engines})


@pytest.mark.parametrize("name", ["dense", *(f"{name} whole" for name in METHODS)])
def test_nothing_left_out_is_what_vllm_writes(done: Any, name: str) -> None:
    for ours, own in zip(done["sparse"][name]["answers"], done["own"]["dense"]["answers"], strict=True):
        assert gap(ours, own) <= 0.05
        (ran,) = ours["ran"]
        assert ran["prefill"]["sparsity"] == pytest.approx(0, abs=0.01)
        assert ran["decode"]["sparsity"] == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(("name", "phase"), METHODS.items())
def test_a_method_leaves_out_the_given_share(done: Any, name: str, phase: str) -> None:
    ((ran,),) = [answer["ran"] for answer in done["sparse"][name]["answers"][1:]]
    assert ran[phase]["sparsity"] == pytest.approx(0.7, abs=0.4 if phase == "prefill" else 0.02)
    assert ran["decode" if phase == "prefill" else "prefill"]["sparsity"] == 0
