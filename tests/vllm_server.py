"""Real models of vLLM: a short one, and a server as a user starts it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def first_layers(model: Path, folder: Path, layers: int) -> Path:
    """The first layers of a model, as a separate model."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    number = re.compile(r"\.layers\.(\d+)\.")
    weights = {
        name: weight
        for name, weight in load_file(model / "model.safetensors").items()
        if (match := number.search(name)) is None or int(match[1]) < layers
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    return folder


@contextmanager
def serving(model: str, folder: Path, *options: str, **environment: str) -> Iterator[str]:
    """``vllm serve`` of a model, as ``demo-model``, with a context of 2,048 tokens: the address of its API.

    Args:
        model: A folder.
        folder: For its log.
        options: Further ones.
        environment: What is added to this process's.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            # What "vllm serve" runs; the CPU build's own command fails looking for its version under another name.
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model,
             "--served-model-name", "demo-model", "--host", "127.0.0.1", "--port", str(port),
             "--max-model-len", "2048", "--enforce-eager", "--generation-config", "vllm", *options],
            env=os.environ | environment,
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        until = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert server.poll() is None, (folder / "server.log").read_text()[-2000:]
                assert time.monotonic() < until, "the server does not start"
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
