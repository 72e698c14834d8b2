"""The board's pages as HTML: each stands alone, works from a file and reads without scripts.

Everything in a submission was written by a stranger: templates escape all of it, characters that cannot be seen or that
turn the direction of what follows are replaced, and the pages allow no script and no style but their own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

import jinja2
from markupsafe import Markup

from sparse_tasks.core.length import label
from sparse_tasks.core.records import to_builtins
from sparse_tasks.evaluators.costs import decode_reads, index_flops, index_reads, prefill_flops
from sparse_tasks.evaluators.exports.parts import dataset_id
from sparse_tasks.evaluators.leaderboard.standings import Difference, Rank, Table, difference, mean_sparsity, measured
from sparse_tasks.evaluators.leaderboard.submission import Submission, SubmittedRun

__all__ = ["board_page", "shown", "slug", "submission_page"]

_SYMBOLS: Final = {
    "better": '<b class="g">▲ better',
    "worse": '<b class="w">▼ worse',
    "tie": "<b>≈ tie",
}
_JOINERS: Final = "\u200c\u200d"  # Persian and emoji are written with them
_LEFT: Final = 6  # columns of the board before those of the lengths, which have two each
_CARD_LABELS: Final = ("Model", "Method", "Asked", "Prefill", "Decode")
_PLOT: Final = (138.0, 288.0)  # where a score of 0 and of 1 stand in a chart of 300 units
_ROW: Final = 19  # height of a task in it
_LARGEST_P: Final = 0.05
_DEPTH: Final = 3  # settings that are nested deeper are shown as JSON


@dataclass(frozen=True, slots=True)
class _Mark:
    """A task in a chart: places in its units."""

    task: str
    y: int
    low: float
    mean: float
    high: float
    dense: float | None


# --- the two pages ------------------------------------------------------------------------------------------


def board_page(tables: Sequence[Table], *, submissions: int, runs: int) -> str:
    """The index page: a table for each data set."""
    css, js = _text("board.css") + _length_rules({table.lengths for table in tables}), _text("board.js")
    return _template("board.html.j2").render(
        tables=tables,
        submissions=submissions,
        runs=runs,
        css=Markup(css),  # noqa: S704  ours, and no </style> is in it
        js=Markup(js),  # noqa: S704
        policy=_policy(css, js if tables else None),
    )


def submission_page(submission: Submission, file: str) -> str:
    """A submission's page.

    Args:
        submission: What was handed in.
        file: Name of its file.
    """
    runs = submission.runs
    lengths = tuple(sorted({average.length for run in runs for average in run.result.averages}))
    css = _text("board.css") + _length_rules({lengths})
    settings = [dict(_flat(to_builtins(run.settings))) for run in runs]
    common = {key: value for key, value in settings[0].items() if all(one.get(key) == value for one in settings)}
    return _template("submission.html.j2").render(
        submission=submission,
        file=file,
        runs=[
            _run(run) | {"settings": [item for item in own.items() if item[0] not in common]}
            for run, own in zip(runs, settings, strict=True)
        ],
        common=list(common.items()),
        lengths=lengths,
        command=_command(file, runs),
        css=Markup(css),  # noqa: S704
        policy=_policy(css, None),
    )


def _run(run: SubmittedRun) -> dict[str, Any]:
    """What the template shows of a run."""
    comparison, result = run.comparison, to_builtins(run.result)
    rows = {} if comparison is None else {(row["length"], row["task"]): row for row in comparison["rows"]}
    against = {} if comparison is None else {one["length"]: one for one in comparison["averages"]}
    averages = {one["length"]: one for one in result["averages"]}
    lengths = []
    for length in dict.fromkeys(config["length"] for config in result["configs"]):
        pairs = [
            (config, rows.get((length, config["task"]))) for config in result["configs"] if config["length"] == length
        ]
        average = averages.get(length)
        lengths.append(
            {
                "length": length,
                "rows": pairs,
                "average": average,
                "against": against.get(length),
                "chart": _chart(pairs, average, against.get(length)),
                "theory": _theory(run, length),
            }
        )
    return {
        "title": f"{run.label}, {run.model}",
        "label": run.label,
        "attention": run.attention,
        "model": run.model,
        "dataset": dataset_id(run.settings),
        "sha256": run.settings.dataset.sha256,
        "dense": run.dense,
        "asked": run.asked,
        "prefill": measured(run, "prefill"),
        "decode": measured(run, "decode"),
        "compared": comparison is not None,
        "lengths": lengths,
        "scores": {length: (one, against.get(length)) for length, one in averages.items()},
    }


def _theory(run: SubmittedRun, length: int) -> tuple[float, float] | None:
    """How many times less prefill computes and a decoding step reads than with dense attention, at batch 1.

    By the formulas of ``costs``, with what was measured and what the method does to find it; None where the model's
    sizes, the measurements or the method are not known, and for dense runs.
    """
    shape, attention = run.shape, run.settings.attention
    configs = [config for config in to_builtins(run.result)["configs"] if config["length"] == length]
    prefill, decode = (mean_sparsity(configs, phase) for phase in ("prefill", "decode"))
    if shape is None or run.dense or prefill is None or decode is None:
        return None
    known = [config["input_tokens"] for config in configs if config["input_tokens"]]
    tokens = sum(known) / len(known) if known else length  # as ``analyses.cost`` has it
    try:
        looking, reading = index_flops(attention, shape, tokens), index_reads(attention, shape, tokens)
        if looking is None or reading is None:
            return None
        flops = prefill_flops(shape, tokens) / (prefill_flops(shape, tokens, 1 - prefill) + looking)
        reads = decode_reads(shape, tokens) / (decode_reads(shape, tokens, 1 - decode) + reading)
    except (ValueError, ZeroDivisionError, OverflowError):  # a shape that no model has
        return None
    return (flops, reads) if math.isfinite(flops) and math.isfinite(reads) else None


def _chart(
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any] | None]],
    average: Mapping[str, Any] | None,
    against: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Where the dots of a length stand."""
    shown = [(config["task"], config, row) for config, row in pairs]
    if average is not None:
        shown.append(("mean of tasks", average, against))
    return {
        "height": _ROW * len(shown) + 26,
        "ticks": [(_place(tick), f"{tick:g}") for tick in (0, 0.25, 0.5, 0.75, 1)],
        "marks": [
            _Mark(
                task=task,
                y=_ROW * i + 14,
                low=_place(one["low"]),
                mean=_place(one["mean"]),
                high=_place(one["high"]),
                dense=None if row is None else _place(row["mean_a"]),
            )
            for i, (task, one, row) in enumerate(shown)
        ],
    }


def _place(score: float) -> float:
    return round(_PLOT[0] + score * (_PLOT[1] - _PLOT[0]), 1)


def _command(file: str, runs: Sequence[SubmittedRun]) -> str:
    """How anybody checks the submission; a data set is named with its commit, where it has one."""
    revisions = [(dataset_id(run.settings), run.settings.dataset.revision) for run in runs]
    names = dict.fromkeys(name if revision is None else f"{name}@{revision}" for name, revision in revisions)
    data = " ".join(f"--data {shlex.quote(shown(name))}" for name in names)
    return f"sparse-tasks leaderboard check {shlex.quote(shown(file))} {data}"


def _flat(value: Mapping[str, Any], path: str = "", depth: int = 1) -> list[tuple[str, str]]:
    """Settings by their path, as text."""
    found: list[tuple[str, str]] = []
    for key, part in value.items():
        if isinstance(part, dict) and part and depth < _DEPTH:
            found += _flat(part, f"{path}{key}.", depth + 1)
        elif part not in ({}, []) and not (depth == 1 and key in ("format", "schema_version")):
            found.append((path + key, part if isinstance(part, str) else json.dumps(part, ensure_ascii=False)))
    return found


# --- templates ----------------------------------------------------------------------------------------------


def slug(name: str) -> str:
    """A name as part of a file's name: lower-case letters, digits and hyphens only, at most 40."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:40].strip("-") or "submission"


def shown(text: str, most: int = 2000) -> str:
    """A stranger's text on one line: what is invisible or turns the writing becomes U+FFFD, what is long is cut."""
    cut = text if len(text) <= most else text[: most - 1] + "…"
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() or c in _JOINERS else " " if c.isspace() else "\ufffd" for c in cut)


def _rank(rank: Rank) -> str:
    return f"{rank.first}–{rank.last}" if rank.first < rank.last else f"{rank.first}"


def _verdict(found: Difference, tie: bool = False) -> Markup:
    """Better, worse or a tie, in a word and a symbol, with the difference and its interval."""
    numbers = f" {_signed(found.mean)}</b> <i>{_signed(found.low)} to {_signed(found.high)}</i>"
    return Markup(_SYMBOLS["tie" if tie else found.verdict] + numbers)  # noqa: S704  made of numbers


def _against(row: Mapping[str, Any]) -> Markup:
    """The same for a row of ``comparison-1.0``; where it has a p-value, it is a tie unless that is small."""
    found = difference(row)
    return Markup("") if found is None else _verdict(found, tie=row.get("p_holm", 0.0) > _LARGEST_P)


def _share(value: float | None) -> str:
    return "–" if value is None else "0" if value == 0 else f"{value:.3f}"


def _signed(value: float) -> str:
    """Three decimals, with a sign; one that rounds to nothing has none."""
    text = f"{value:+.3f}".replace("-", "−")
    return "0.000" if text[1:] == "0.000" else text


def _asked(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def _phase(sparsity: Mapping[str, float] | None, phase: str, dense: bool) -> str:
    return "0" if dense else _share((sparsity or {}).get(phase))


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _count(number: int, of: str) -> str:
    return f"{number:,} {of}{'' if number == 1 else 's'}"


def _is_mail(text: str) -> bool:
    """Whether a text is plainly an e-mail address and nothing else."""
    return re.fullmatch(r"[A-Za-z0-9._+-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){1,4}", text) is not None


def _columns(lengths: Sequence[int]) -> str:
    """The class by which a table's cells get their labels where they stand below each other."""
    return "n" + "-".join(map(str, lengths))


def _length_rules(columns: Collection[tuple[int, ...]]) -> str:
    """Styles that depend on the lengths: labels of cells on narrow screens, and showing one length alone."""
    rules = [f'.board td:nth-child({2 + i})::before{{content:"{text}"}}' for i, text in enumerate(_CARD_LABELS)]
    for lengths in sorted(columns):
        name = _columns(lengths)
        for i, length in enumerate(lengths):
            column = _LEFT + 1 + 2 * i
            rules.append(f'.{name} td:nth-child({column})::before{{content:"{label(length)}"}}')
            rules.append(f'.{name} td:nth-child({column + 1})::before{{content:"against dense"}}')
    most = max(map(len, columns), default=0)
    alone = []
    for i in range(most):
        score = _LEFT + 1 + 2 * i
        kept = f":nth-child({score}),:nth-child({score + 1})"
        alone.append(f'[data-only="{i + 1}"] tr>:nth-child(n+{_LEFT + 1}):not({kept})')
    narrow = "@media (max-width: 45rem) {\n" + "\n".join(rules) + "\n}\n"
    return "\n" + narrow + (",\n".join(alone) + "{display:none!important}\n" if alone else "")


def _policy(css: str, js: str | None) -> str:
    """What a browser may do with the page: apply its own style, run its own script, nothing else."""
    scripts = "" if js is None else f" script-src '{_hash(js)}';"
    return f"default-src 'none'; style-src '{_hash(css)}';{scripts} base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _text(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


@cache
def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "against": _against,
        "asked": _asked,
        "columns": _columns,
        "count": _count,
        "is_mail": _is_mail,
        "label": label,
        "mebibytes": lambda value: "–" if value is None else f"{value / 2**20:,.1f}",
        "p": _p,
        "percent": lambda value: f"{value:.0%}",
        "phase": _phase,
        "rank": _rank,
        "share": _share,
        "shown": shown,
        "times": lambda value: f"{value:.2f}×",
        "verdict": _verdict,
    }
    return environment.get_template(name)
