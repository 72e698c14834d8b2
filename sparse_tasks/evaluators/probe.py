"""The models ``probe`` and ``probe-steps``: the demo model, fine-tuned by the recipe in ``probe/`` to do the tasks.

The package ``sparse-tasks-probe`` contains the changes of its weights, as int8 low-rank factors. They are added to the
demo model's weights once, and the result is kept in the cache.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from sparse_tasks.core.errors import UsageError, install
from sparse_tasks.core.files import sha256_of
from sparse_tasks.core.tokenizers.loading import cache_folder
from sparse_tasks.evaluators.demo import cached_folder, demo_model, one_thread

_PACKAGE: Final = "sparse_tasks_probe"
_POSITIONS: Final = 9728
"""Positions of a probe: a prompt of 8k and the answer. The base has 8,192; the probe was trained at 8,704."""


def probe_model(name: str) -> Path:
    """The folder of a probe's checkpoint, made at the first call.

    Raises:
        UsageError: The package, the demo model, or what computes the weights is missing.
    """
    spec = find_spec(_PACKAGE)
    factors = Path("" if spec is None else spec.origin or "").parent / f"{name}.safetensors"
    if not factors.is_file():
        raise UsageError(
            "model",
            name,
            "is not installed; install it from a clone of this repository: pip install ./probe/package",
        )
    base = demo_model()
    version = sha256_of(factors)[:8] + sha256_of(base / "config.json")[:8]
    made = cache_folder() / "models" / f"sparse-tasks-{name}-{version}"
    return cached_folder(made, lambda: _make(name, base, factors, made))


def _make(model: str, base: Path, factors: Path, target: Path) -> None:
    try:
        import torch
        from safetensors.torch import load_file, save_file
    except ImportError as error:
        raise UsageError("model", model, f"needs {error.name} to be made; {install('transformers')}") from error
    weights, change = load_file(base / "model.safetensors"), load_file(factors)
    with one_thread():
        for name, weight in weights.items():
            factor = name.removesuffix(".weight")
            if f"{factor}.left" in change:
                left, right = change[f"{factor}.left"].float(), change[f"{factor}.right"].float()
                left *= change[f"{factor}.left_scale"].float()
                right *= change[f"{factor}.right_scale"].float()[:, None]
                weights[name] = torch.addmm(weight.float(), left, right).to(weight.dtype)
            elif name in change:
                weights[name] = change[name].to(weight.dtype)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        unfinished = Path(folder) / "whole"
        shutil.copytree(base, unfinished, ignore=shutil.ignore_patterns("*.safetensors", "*.md", ".*"))
        save_file(weights, unfinished / "model.safetensors", {"format": "pt"})
        config = json.loads((unfinished / "config.json").read_bytes()) | {"max_position_embeddings": _POSITIONS}
        (unfinished / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        os.replace(unfinished, target)
