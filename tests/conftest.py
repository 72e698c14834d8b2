"""What all tests share."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything imports huggingface_hub, which reads it once

from sparse_tasks.core.tokenizers import PromptTokenizer, load_tokenizer
from tests.made_tokenizers import MAKERS, save


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
    """What is slow runs without coverage tracing, and so do the processes that it starts."""
    coverage = sys.modules.get("coverage")
    tracing = coverage and item.get_closest_marker("slow") and coverage.Coverage.current()
    if not tracing:
        return (yield)
    tracing.stop()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COVERAGE_PROCESS_START", raising=False)
        try:
            return (yield)
        finally:
            tracing.start()


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
