"""A failure of vLLM is reported with its cause, in the failing process's words, and a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparse_tasks.core.errors import UsageError
from sparse_tasks.evaluators.engines import vllm
from sparse_tasks.evaluators.engines.engine import EngineSettings
from sparse_tasks.evaluators.engines.vllm import _cause, _refusal
from sparse_tasks.evaluators.models import find_model

CORE = "(EngineCore pid=16722) ERROR 11-29 21:55:52 [core.py:1512]"
DEAD = RuntimeError("EngineCore encountered an issue. See stack trace (above) for the root cause.")
TRACE = [f"{CORE} Traceback (most recent call last):", f'{CORE}   File "core.py", line 1', f"{CORE}     step()", CORE]
DIED = (
    "(EngineCore pid=7) ERROR 11-29 21:55:01 [multi.py:315] Worker proc VllmWorker-0 died unexpectedly (exit code: -9)."
)


@pytest.mark.parametrize(
    ("said", "cause", "remedy"),
    [
        # A step that took too long: an error without words, and the one that it became.
        (
            [f"{CORE} Dumping input data", *TRACE, f"{CORE} TimeoutError", *TRACE,
             f"{CORE} TimeoutError: RPC call to execute_model timed out."],
            "TimeoutError: RPC call to execute_model timed out; a step took longer",
            "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS",
        ),
        # A worker that was killed says nothing; others notice it.
        (
            [DIED, *TRACE, f"{CORE} RuntimeError: cancelled"],
            "Worker proc VllmWorker-0 died unexpectedly (exit code: -9); its last line: RuntimeError: cancelled; ",
            "if memory is short",
        ),
        # A worker's own error, and all that follows from it.
        (
            ["(Worker pid=3) ERROR 11-29 21:57:19 [x.py:9] ValueError: 21.5 GiB is less than requested for KV cache",
             f"{CORE} RuntimeError: Worker failed with error '21.5 GiB', please check the stack trace", DIED],
            "ValueError: 21.5 GiB is less than requested for KV cache; its last line: Worker proc",
            "VLLM_CPU_KVCACHE_SPACE",
        ),
        # Libraries below write as they like.
        (
            ["terminate called after throwing an instance of 'std::bad_alloc'"],
            "EngineCore encountered an issue",
            "its last line: terminate called after throwing an instance of 'std::bad_alloc'; if memory is short",
        ),
        (
            [*TRACE, f"{CORE} torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB"],
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB; ",
            "gpu_memory_utilization",
        ),
        ([*TRACE, f"{CORE} AssertionError", ""], "AssertionError; ", "with VLLM_LOGGING_LEVEL=INFO its log is shown"),
        ([], "EngineCore encountered an issue", "with VLLM_LOGGING_LEVEL=INFO its log is shown"),
    ],
)  # fmt: skip
def test_the_cause_is_reported_with_a_remedy(said: list[str], cause: str, remedy: str) -> None:
    reported = _cause(DEAD, said)
    assert reported.startswith(cause)
    assert remedy in reported
    assert "\n" not in reported


def test_a_second_engine_after_ngram_drafts_needs_a_process_of_its_own() -> None:
    reported = _cause(AttributeError("'_lib_fn_wrapper' object has no attribute 'get'"), [])
    assert reported.startswith(
        "'_lib_fn_wrapper' object has no attribute 'get'; vLLM starts no engine in a process that"
    )
    assert reported.endswith("unset VLLM_ENABLE_V1_MULTIPROCESSING=0, so that each engine has a process of its own")


def test_other_failures_are_not_blamed_on_memory() -> None:
    said = [f"{CORE} ValueError: no such layer", "resource_tracker: There appear to be 1 leaked shared_memory objects"]
    assert "memory is short" not in _cause(DEAD, said)


@pytest.mark.parametrize("process", ["Worker", "Worker_TP0", "VllmWorker-0", "EngineCore"])
def test_a_refusal_by_the_plugin_is_reported_alone(process: str) -> None:
    """A worker has another name until it has started."""
    refused = UsageError("sinks", "given", "is not known")
    worker = f"({process} pid=3) ERROR 11-29 21:57:19 [x.py:9]"
    said = [*TRACE, f"{worker} {UsageError.__module__}.UsageError: {refused}", f"{CORE} Exception: WorkerProc failed"]
    assert _refusal(said) == "sinks: 'given' is not known"
    assert _refusal([*TRACE, f"{CORE} ValueError: sinks"]) is None


REFUSALS = [
    UsageError("vllm", "0.31.0", "lacks what sparse attention needs: vllm.a.B has no c; install 0.26 to 0.32"),
    UsageError("model", "acme/small", "has other attention in vLLM"),
]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_the_error_names_what_the_plugin_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch, refusal: UsageError
) -> None:
    monkeypatch.setattr(vllm, "find_spec", lambda name: object())
    engine = vllm.VllmEngine(EngineSettings(find_model(str(model))))
    line = f"(Worker pid=3) ERROR 11-29 21:57:19 [x.py:9] {UsageError.__module__}.UsageError: {refusal}"
    monkeypatch.setattr(engine._chatter, "lines", lambda start: [*TRACE, line])
    with pytest.raises(UsageError) as caught, engine._failing_as("does not start"):
        raise DEAD
    assert str(caught.value) == f"engine: 'vllm' does not start: {refusal}"
    assert caught.value.exit_code == 2
