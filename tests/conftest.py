"""What all tests share."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything imports huggingface_hub, which reads it once

from sparse_tasks.core.tokenizers import PromptTokenizer, load_tokenizer
from tests.example_tokenizers import MAKERS, save

_TRACED = defaultdict[str, float](float)  # processor seconds by test


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Thousands of tests are made at once and stay: the search for cycles among them took a quarter of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)  # after the test's fixtures
def pytest_runtest_teardown() -> None:
    """A test that leaves the Hub reachable fails itself, not the next one that expects it not to be."""
    constants = sys.modules.get("huggingface_hub.constants")
    offline = os.environ["HF_HUB_OFFLINE"] != "0"
    assert constants is None or offline == constants.HF_HUB_OFFLINE, "the test left HF_HUB_OFFLINE changed"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Coverage does not trace what is slow, nor more cases of a test than take half a second: they run the same lines.

    Tracing takes nearly a third of the time. Processes that an untraced case starts are not traced either.
    """
    coverage, test = sys.modules.get("coverage"), item.nodeid.partition("[")[0]
    if not (coverage and coverage.Coverage.current()):
        return (yield)
    if _TRACED[test] < 0.5 and not item.get_closest_marker("slow"):
        began = time.process_time()
        try:
            return (yield)
        finally:
            _TRACED[test] += time.process_time() - began
    # Coverage.stop and start would wrap os._exit once more each time, until a forked process cannot end.
    tracer, of_threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COVERAGE_PROCESS_START", raising=False)
        try:
            return (yield)
        finally:
            threading.settrace(of_threads)
            sys.settrace(tracer)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Side by side, the threads of torch would wait for one another. Those of processes that tests start are theirs."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
    # An engine takes all cores that it may: of those side by side each has its own.
    if hasattr(os, "sched_setaffinity") and any(item.get_closest_marker("engine") for item in session.items):
        number, count = (int(os.environ[f"PYTEST_XDIST_WORKER{end}"].removeprefix("gw")) for end in ("", "_COUNT"))
        cores = sorted(os.sched_getaffinity(0))[number::count]
        if cores:
            os.sched_setaffinity(0, cores)


@pytest.fixture(scope="session")
def qwen() -> PromptTokenizer:
    """The built-in tokenizer."""
    return load_tokenizer()


@pytest.fixture(scope="session")
def tokenizer_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with a made tokenizer each, by sort, with a chat template."""
    root = tmp_path_factory.mktemp("tokenizers")
    return {name: save(make(), root / name) for name, make in MAKERS.items()}


@pytest.fixture(scope="session")
def demo() -> Path:
    """The folder of the demo model."""
    from sparse_tasks.core.errors import UsageError
    from sparse_tasks.evaluators.demo import demo_model

    try:
        return demo_model()
    except UsageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def short_demo(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its first three layers, of thirty, as a model of its own."""
    pytest.importorskip("safetensors.torch", reason="torch and safetensors are not installed")
    from tests.vllm_server import first_layers

    return first_layers(demo, tmp_path_factory.mktemp("models") / "short", 3)
