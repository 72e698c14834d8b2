"""What was found of each architecture, and the page that shows it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sparse_tasks.core.files import write_whole
from tests.cli.program import ROOT

Json = dict[str, Any]

RESULTS: Final = Path(__file__).with_name("models.json")
PAGE: Final = ROOT / "docs" / "models.md"

NOISE: Final = {"float32": 2e-4, "bfloat16": 0.05}
"""Differences of logprobs that rounding explains."""

AS_THEY_SHOULD: Final = ("sparse", "refused", "not run by vLLM", "no checkpoint")
"""Outcomes without an error of ours."""


def load(path: Path) -> Json:
    results: Json = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"releases": {}, "rows": {}}
    return results


def save(path: Path, results: Json) -> None:
    write_whole(path, f"{json.dumps(results, indent=1)}\n".encode())


def outcome(row: Json) -> str:
    """One of ``AS_THEY_SHOULD``; or ``failed`` with an error that refuses nothing, or ``wrong`` without any."""
    if row["stage"] != "done":
        stages = {"checkpoint": "no checkpoint", "plain": "not run by vLLM"}
        return stages.get(row["stage"]) or ("refused" if row.get("refused") else "failed")
    noise = NOISE[row["dtype"]]
    right = (
        row["difference"] <= noise < row["half_difference"]  # the models are such that attention shows
        and row["zero"] == 0
        and abs(row["decode"] - 0.5) <= 0.03
        and (row["prefill"] >= 0.2 or row.get("methods") == "quest")
    )
    return "sparse" if right else "wrong"


def page(results: Json) -> str:
    """``docs/models.md``."""
    return "\n".join([*_page(results), ""])


def _page(results: Json) -> Iterator[str]:
    rows: dict[str, list[tuple[str, Json]]] = {}
    for name, row in results["rows"].items():
        rows.setdefault(outcome(row), []).append((name, row))
    releases = ", ".join(f"{name} {version}" for name, version in results["releases"].items())
    yield "# Models"
    yield ""
    yield f"{len(results['rows'])} architectures of vLLM's registry, each tested on a CPU in a tiny size, with random"
    yield "weights: all text decoders, and, on text only, those models with images or sound that transformers has."
    yield "`python -m tests.breadth` writes this page and tests what has no result yet."
    yield f"With {releases}."
    yield ""
    yield "| outcome | architectures |"
    yield "| --- | ---: |"
    for kind, reported in _TOLD.items():
        if kind in rows or kind in AS_THEY_SHOULD:
            yield f"| {reported} | {len(rows.get(kind, []))} |"
    yield ""
    yield _SIZES
    yield ""
    yield "## Exact and sparse"
    yield ""
    yield _EXACT
    yield ""
    yield "| architecture | exact | at 0.5 off by | prefill | decode |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name, row in rows.get("sparse", []) + rows.get("wrong", []):
        note = "" if outcome(row) == "sparse" else ", WRONG"
        note += "" if row["dtype"] == "float32" else f", {row['dtype']}"
        note += ", `quest`" if row.get("methods") == "quest" else ""
        yield (
            f"| {name}{note} | {row['difference']:.1e} | {row['half_difference']:.2g} | {row['prefill']:.3f} | "
            f"{row['decode']:.3f} |"
        )
    for kind, title, text in _OTHERS:
        if kind in rows:
            yield from ("", f"## {title}", "", text, "", "| architecture | reason |", "| --- | --- |")
            for name, row in rows[kind]:
                yield f"| {name} | {_reason(row)} |"


_SIZES: Final = """\
A published model of a listed architecture may still be refused, for layers that differ, or on a GPU for a head size
that no kernel supports ([what is refused](serving.md#what-is-refused)). [What runs](serving.md#what-runs) describes
hybrids, sinks, and models with images. Most models with images, and Qwen3.5, do not start without
[torchvision](evaluation.md#models-with-images-on-a-cpu); they were tested with it."""
_EXACT: Final = f"""\
Two prompts of 200 and 700 tokens are read in chunks and answered with 6 tokens, by vLLM alone and with the plugin.
*Exact* is the largest difference of logprobs from vLLM's own attention, for dense attention and for
`vertical_slash+quest` with a budget for everything; up to {NOISE["float32"]:g} is rounding ({NOISE["bfloat16"]:g}
if vLLM computes only in bfloat16). The other columns are for `vertical_slash+quest` at 0.5: how far its logprobs are
off, which shows that attention matters in these models, and the measured sparsity of the longer prompt."""
_TOLD: Final = {
    "sparse": "run in vLLM, exactly at sparsity 0, and sparse",
    "refused": "run in vLLM, but are refused by sparse attention, with a reason",
    "not run by vLLM": "are not run by vLLM's CPU build",
    "no checkpoint": "no tiny checkpoint could be made",
    "wrong": "RUN WRONG",
    "failed": "FAIL",
}
_NOT_RUN: Final = """\
They do not run without sparse attention either; the reason is the first line of the error. Attributes that a config
lacks are those that published models have and transformers' own class does not."""
_OTHERS: Final = (
    ("failed", "Failing", "An error that is not a refusal."),
    ("refused", "Refused", "vLLM runs them; sparse attention ends with exit code 2 and this reason."),
    (
        "not run by vLLM",
        "Not run by vLLM's CPU build",
        _NOT_RUN,
    ),
    ("no checkpoint", "No checkpoint", "`transformers` cannot build a model of that architecture."),
)


def _reason(row: Json) -> str:
    """A cell with the reason: a clause of ours, or the line of another's error as code."""
    text = str(row["error"])
    if row.get("refused"):
        return text.removeprefix("model: 'MODEL' ").split("; choose")[0]
    if text == NO_CLASS:
        return text
    return "`" + text.replace("`", "'").replace("|", "/") + "`"


NO_CLASS: Final = "transformers has no such class"
