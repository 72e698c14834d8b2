"""One architecture in real engines: vLLM's own, then with sparse attention that leaves nothing out, then half.

It runs in a process of its own, which is forked from one that has everything imported.
"""

from __future__ import annotations

import json
import os
import random
import sys
import traceback
from pathlib import Path
from typing import Any, Final

import torch
import vllm
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.model_executor.models import registry

from sparse_tasks.core.errors import UsageError
from tests.attention.vllm.engine import work
from tests.breadth import tiny
from tests.breadth.sources import TEXT_ALONE
from tests.example_tokenizers import byte_level, save

Json = dict[str, Any]

METHODS: Final = "vertical_slash+quest"
_LATENT: Final = dict.fromkeys(("AXK1ForCausalLM", "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"), "quest")
"""Of latent attention, which only methods of decoding know."""

NOTHING_LEFT_OUT: Final = 1e-300  # of no token, where a method would not run at sparsity 0
_OPTIONS: Final[Json] = {
    "max_model_len": 1024, "max_num_batched_tokens": 256, "max_num_seqs": 4, "seed": 42, "enforce_eager": True,
    "enable_prefix_caching": False, "skip_tokenizer_init": True, "num_gpu_blocks_override": 300,
}  # fmt: skip
_OWN: Final[dict[str, Json]] = {
    "HrmTextForCausalLM": {"max_num_batched_tokens": 1024},  # whose prompts vLLM does not read in chunks: it would wait
    # Whose classes ask a tokenizer for tokens of images.
    "InklingForCausalLM": {"skip_tokenizer_init": False},
    "InklingForConditionalGeneration": {"skip_tokenizer_init": False},
}
_TEXT: Final[Json] = {"skip_tokenizer_init": False, "language_model_only": True}
"""Of models with images or sound, of which text alone is tried."""
_WITHOUT_NUMBA: Final = ("KimiLinearForCausalLM",)
"""Whose classes load numba. Then vLLM 0.32 starts no worker in this process, but does in one of its own."""

_PROMPTS: Final = (200, 700)


def attempt(name: str, source: str, dtype: str, folder: Path) -> None:
    """Try an architecture. The row, and a log, are in the folder, whatever ends the process."""
    with (folder / "log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    row: Json = {"stage": "checkpoint"}

    def note(**found: Any) -> None:
        row.update(found)
        (folder / "row.json").write_text(json.dumps(row), encoding="utf-8")

    try:
        note()
        if name in _WITHOUT_NUMBA:
            sys.modules["numba"] = None  # type: ignore[assignment]  # which Python takes as not installed
        tiny.make(source, folder / "model", architecture=name)
        save(byte_level(), folder / "model")
        note(stage="plain")
        own = answers(folder / "model", name, dtype, None, ["own"])["own"]
        note(stage="sparse")
        ours = answers(folder / "model", name, dtype, "sparse", ["dense", "whole", "half"])
        note(stage="done", methods=_LATENT.get(name, METHODS), **compare(own, ours))
    except Exception as error:
        traceback.print_exc()
        note(error=reason(error, folder), refused=refusal(error) is not None)


def answers(model: Path, name: str, dtype: str, attention: str | None, runs: list[str]) -> Json:
    """Answers of an engine by run."""
    register(name)
    draw = random.Random(0)
    prompts = [[draw.randrange(3, tiny.VOCABULARY) for _ in range(length)] for length in _PROMPTS]
    methods = _LATENT.get(name, METHODS)
    asked = {
        "own": {},
        "dense": {"attention": {"attention": "dense"}},
        "whole": {"attention": {"attention": methods, "sparsity": NOTHING_LEFT_OUT}},
        "half": {"attention": {"attention": methods, "sparsity": 0.5}},
    }
    own = _OWN.get(name, _TEXT if name in TEXT_ALONE else {})
    options = _OPTIONS | {"model": str(model), "dtype": dtype} | own
    engine = {
        "attention": None if attention is None else {"attention": methods, "sparsity": 0.5},
        "options": options,
        "runs": {run: asked[run] | {"prompts": prompts, "tokens": 6} for run in runs},
    }
    try:
        return {run: done["answers"] for run, done in work(engine).items()}
    finally:
        cleanup_dist_env_and_memory()


def register(name: str) -> None:
    """Have vLLM look at the class here, and not in a process of its own."""
    models = vllm.ModelRegistry.models
    if isinstance(models.get(name), registry._LazyRegisteredModel):
        vllm.ModelRegistry.register_model(name, models[name].load_model_cls())


def compare(own: list[Json], ours: Json) -> Json:
    """The greatest difference of logprobs from vLLM's own, and measured sparsity of the longer prompt."""
    (half,) = ours["half"][-1]["ran"]
    return {
        "difference": max(apart(ours[run], own) for run in ("dense", "whole")),
        "half_difference": apart(ours["half"], own),
        "prefill": half["prefill"]["sparsity"],
        "decode": half["decode"]["sparsity"],
        "zero": max(phase["sparsity"] for run in ("dense", "whole") for answer in ours[run] for ran in answer["ran"]
                    for phase in ran.values()),
    }  # fmt: skip


def apart(a: list[Json], b: list[Json]) -> float:
    """The largest difference of logprobs, up to where tokens differ; NaN if one is NaN.

    What is not among the likeliest tokens of one is no likelier there than the last of them.
    """
    differences = []
    for one, other in zip(a, b, strict=True):
        same = [x == y for x, y in zip(one["ids"], other["ids"], strict=True)]
        until = same.index(False) + 1 if False in same else len(same)
        for ours, theirs in zip(one["logprobs"][:until], other["logprobs"][:until], strict=True):
            least = min(ours.values()), min(theirs.values())
            differences += [abs(ours.get(token, least[0]) - theirs.get(token, least[1])) for token in ours | theirs]
    return float(torch.tensor(differences).max())


def refusal(error: BaseException | None) -> UsageError | None:
    """The refusal that an error is, or comes from."""
    while error is not None and not isinstance(error, UsageError):
        error = error.__cause__ or error.__context__
    return error


def reason(error: Exception, folder: Path) -> str:
    """An error in a line, without paths."""
    if refused := refusal(error):
        text = str(refused)
    elif callable(details := getattr(error, "errors", None)):  # of pydantic
        text = "; ".join(detail["msg"] for detail in details())
    else:
        where = traceback.extract_tb(error.__traceback__)[-1].line  # what an assertion without words says
        text = f"{type(error).__name__}: {str(error) or where}"
    for path in (str(folder / "model"), sys.prefix, str(folder)):
        text = text.replace(path, "MODEL" if "model" in path else "...")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:240] if lines else type(error).__name__
