"""The board's pages as HTML: each is self-contained, works from a file and can be read without scripts.

Submissions are untrusted: templates escape every text, characters that are invisible or change the direction of
writing are replaced, and the pages allow only their own script and style.
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
from typing import Final

import jinja2
from markupsafe import Markup
from msgspec import UNSET

from sparse_tasks.core.format import TYPESET, counted, size
from sparse_tasks.core.length import label
from sparse_tasks.core.records import JsonObject, Phase, Phases, to_builtins
from sparse_tasks.evaluators.ability import ABLE, unable
from sparse_tasks.evaluators.costs import decode_reads, index_flops, index_reads, prefill_flops
from sparse_tasks.evaluators.exports.parts import dataset_id
from sparse_tasks.evaluators.leaderboard.reading import SubmissionFile, SubmittedRun
from sparse_tasks.evaluators.leaderboard.standings import Score, Table, dense_scores, measured, scores, verdict
from sparse_tasks.evaluators.records import AverageResult, ComparedAverage, ComparedTask, ConfigResult
from sparse_tasks.evaluators.results import awareness, mean_measure
from sparse_tasks.evaluators.statistics import Rank

_SYMBOLS: Final = {
    "better": '<b class="g">▲ better',
    "worse": '<b class="w">▼ worse',
    "tie": "<b>≈ tie",
}
_JOINERS: Final = "\u200c\u200d"  # used in Persian and emoji
_LEFT: Final = 6  # columns of the board before those of the lengths, which have two each
_CARD_LABELS: Final = ("Model", "Method", "Target", "Prefill", "Decode")
_PLOT: Final = (138.0, 288.0)  # x of scores 0 and 1 in a chart of 300 units
_ROW: Final = 19  # height of a task in a chart
_LARGEST_P: Final = 0.05
_DEPTH: Final = 3  # settings that are nested deeper are shown as JSON


@dataclass(frozen=True, slots=True)
class _Mark:
    """A task in a chart, in the chart's units."""

    task: str
    y: int
    low: float
    mean: float
    high: float
    dense: float | None


@dataclass(frozen=True, slots=True)
class _Chart:
    """Scores of a length."""

    height: int
    ticks: list[tuple[float, str]]
    marks: list[_Mark]


@dataclass(frozen=True, slots=True)
class _Part:
    """Results of a run at one length, with their comparisons; see ``_theory`` for the last."""

    length: int
    rows: list[tuple[ConfigResult, ComparedTask | None]]
    score: Score | None
    unable: tuple[str, ...]
    chart: _Chart
    theory: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class _Section:
    """A run on its submission's page: measured sparsity, results by length, settings that it does not share."""

    run: SubmittedRun
    dataset: str
    prefill: float | None
    decode: float | None
    parts: list[_Part]
    scores: Mapping[int, Score]
    settings: list[tuple[str, str]]

    @property
    def title(self) -> str:
        """Method and model."""
        return f"{self.run.label}, {self.run.model}"


# --- the two pages ------------------------------------------------------------------------------------------


def board_page(tables: Sequence[Table], *, submissions: int, runs: int) -> str:
    """The index page: a table for each data set."""
    css, js = _css() + _length_rules({table.lengths for table in tables}), _text("board.js")
    return _template("board.html.j2").render(
        tables=tables,
        submissions=submissions,
        runs=runs,
        css=Markup(css),  # noqa: S704  ours, and no </style> is in it
        js=Markup(js),  # noqa: S704
        policy=_policy(css, js if tables else None),
        least=ABLE,
    )


def submission_page(submission: SubmissionFile, file: str) -> str:
    """A submission's page.

    Args:
        submission: The submission.
        file: Name of its file.
    """
    runs = submission.runs
    lengths = tuple(sorted({average.length for run in runs for average in run.result.averages}))
    css = _css() + _length_rules({lengths})
    settings = [dict(_flat(to_builtins(run.settings))) for run in runs]
    common = {key: value for key, value in settings[0].items() if all(other.get(key) == value for other in settings)}
    return _template("submission.html.j2").render(
        submission=submission.content,
        sha256=submission.sha256,
        file=file,
        sections=[
            _section(run, [item for item in own.items() if item[0] not in common])
            for run, own in zip(runs, settings, strict=True)
        ],
        common=list(common.items()),
        lengths=lengths,
        command=_command(file, submission),
        css=Markup(css),  # noqa: S704
        policy=_policy(css, None),
    )


def _section(run: SubmittedRun, settings: list[tuple[str, str]]) -> _Section:
    comparison = run.comparison
    rows = {} if comparison is None else {(row.length, row.task): row for row in comparison.rows}
    failed = unable(dense_scores(run.result, comparison))
    by_length = scores(run.result, comparison, failed)
    configs: dict[int, list[ConfigResult]] = {}
    for config in run.result.configs:
        configs.setdefault(config.length, []).append(config)
    parts = []
    for length, of_length in configs.items():
        pairs = [(config, rows.get((length, config.task))) for config in of_length]
        score = by_length.get(length)
        lost = tuple(config.task for config in of_length if (length, config.task) in failed)
        chart = _chart([pair for pair in pairs if pair[0].task not in lost], score)
        parts.append(_Part(length, pairs, score, lost, chart, _theory(run, length, of_length)))
    return _Section(
        run=run,
        dataset=dataset_id(run.settings),
        prefill=measured(run, "prefill"),
        decode=measured(run, "decode"),
        parts=parts,
        scores=by_length,
        settings=settings,
    )


def _theory(run: SubmittedRun, length: int, configs: Sequence[ConfigResult]) -> tuple[float, float] | None:
    """Factors by which prefill computes and a decoding step reads less than with dense attention, at batch 1.

    By the formulas of ``costs``, from the measured sparsity and with the cost of the method's index; None where the
    model's sizes, the measurements or the method are not known, and for dense runs.
    """
    shape, attention = run.shape, run.settings.attention
    prefill, decode = (mean_measure(configs, "sparsity", phase) for phase in ("prefill", "decode"))
    if shape is None or run.dense or prefill is None or decode is None:
        return None
    known = [config.input_tokens for config in configs if config.input_tokens]
    tokens = sum(known) / len(known) if known else length  # as in ``analyses.cost``
    try:
        computed, read = index_flops(attention, shape, tokens), index_reads(attention, shape, tokens)
        if computed is None or read is None:
            return None
        flops = prefill_flops(shape, tokens) / (prefill_flops(shape, tokens, 1 - prefill) + computed)
        reads = decode_reads(shape, tokens) / (decode_reads(shape, tokens, 1 - decode) + read)
    except (ValueError, ZeroDivisionError, OverflowError):  # an impossible shape
        return None
    return (flops, reads) if math.isfinite(flops) and math.isfinite(reads) else None


def _chart(
    pairs: Sequence[tuple[ConfigResult, ComparedTask | None]],
    score: Score | None,
) -> _Chart:
    shown: list[tuple[str, ConfigResult | AverageResult, ComparedTask | ComparedAverage | None]]
    shown = [(config.task, config, row) for config, row in pairs]
    if score is not None:
        shown.append(("mean of tasks", score.average, score.against_dense))
    return _Chart(
        height=_ROW * len(shown) + 26,
        ticks=[(_place(tick), f"{tick:g}") for tick in (0, 0.25, 0.5, 0.75, 1)],
        marks=[
            _Mark(
                task=task,
                y=_ROW * i + 14,
                low=_place(of.low),
                mean=_place(of.mean),
                high=_place(of.high),
                dense=None if row is None else _place(row.mean_a),
            )
            for i, (task, of, row) in enumerate(shown)
        ],
    )


def _place(score: float) -> float:
    return round(_PLOT[0] + score * (_PLOT[1] - _PLOT[0]), 1)


def _command(file: str, submission: SubmissionFile) -> str:
    """The command that checks the submission; it names data sets that the submission does not describe."""
    command = f"sparse-tasks leaderboard check {shlex.quote(shown(file))}"
    if submission.content.datasets is not UNSET:
        return command
    revisions = [(dataset_id(run.settings), run.settings.dataset.revision) for run in submission.runs]
    names = dict.fromkeys(name if revision is None else f"{name}@{revision}" for name, revision in revisions)
    data = " ".join(f"--data {shlex.quote(shown(name))}" for name in names)
    return f"{command} {data}"


def _flat(value: JsonObject, path: str = "", depth: int = 1) -> list[tuple[str, str]]:
    """Settings by their path, as text."""
    flat: list[tuple[str, str]] = []
    for key, part in value.items():
        if isinstance(part, dict) and part and depth < _DEPTH:
            flat += _flat(part, f"{path}{key}.", depth + 1)
        elif part not in ({}, []) and not (depth == 1 and key in ("format", "schema_version")):
            flat.append((path + key, part if isinstance(part, str) else json.dumps(part, ensure_ascii=False)))
    return flat


# --- templates ----------------------------------------------------------------------------------------------


def slug(name: str) -> str:
    """A name as part of a file's name: lower-case letters, digits and hyphens, at most 40."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:40].strip("-") or "submission"


def shown(text: str, most: int = 2000) -> str:
    """An untrusted text on one line: invisible and direction-changing characters become U+FFFD, long text is cut."""
    cut = text if len(text) <= most else text[: most - 1] + "…"
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() or c in _JOINERS else " " if c.isspace() else "\ufffd" for c in cut)


def _rank(rank: Rank) -> str:
    return f"{rank.low:g}–{rank.high:g}" if rank.low < rank.high else f"{rank.low:g}"


def _against(row: ComparedAverage | ComparedTask) -> Markup:
    """Better, worse or a tie, with the difference and its interval; a task is a tie unless its p-value is small."""
    tie = isinstance(row, ComparedTask) and row.p_holm > _LARGEST_P
    interval = TYPESET.interval(row.interval.low, row.interval.high, sign=True)
    numbers = f" {TYPESET.signed(row.difference)}</b> <i>{interval}</i>"
    return Markup(_SYMBOLS["tie" if tie else verdict(row)] + numbers)  # noqa: S704  made of numbers


def _share(value: float | None) -> str:
    return "0" if value == 0 else TYPESET.number(value)


def _phase(sparsity: Phases | None, phase: Phase, dense: bool) -> str:
    return "0" if dense else _share((sparsity or {}).get(phase))


def _is_mail(text: str) -> bool:
    """Whether a text is an e-mail address and nothing else."""
    return re.fullmatch(r"[A-Za-z0-9._+-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){1,4}", text) is not None


def _columns(lengths: Sequence[int]) -> str:
    """The class of a table with these lengths, which labels its cells on narrow screens."""
    return "n" + "-".join(map(str, lengths))


def _length_rules(columns: Collection[tuple[int, ...]]) -> str:
    """Styles that depend on the lengths: labels of cells on narrow screens, and the columns of a single length."""
    rules = [f'.board td:nth-child({2 + i})::before{{content:"{text}"}}' for i, text in enumerate(_CARD_LABELS)]
    for lengths in sorted(columns):
        name = _columns(lengths)
        for i, length in enumerate(lengths):
            column = _LEFT + 1 + 2 * i
            rules.append(f'.{name} td:nth-child({column})::before{{content:"{label(length)}"}}')
            rules.append(f'.{name} td:nth-child({column + 1})::before{{content:"vs dense"}}')
    most = max(map(len, columns), default=0)
    alone = []
    for i in range(most):
        score = _LEFT + 1 + 2 * i
        kept = f":nth-child({score}),:nth-child({score + 1})"
        alone.append(f'[data-only="{i + 1}"] tr>:nth-child(n+{_LEFT + 1}):not({kept})')
    narrow = "@media (max-width: 45rem) {\n" + "\n".join(rules) + "\n}\n"
    return "\n" + narrow + (",\n".join(alone) + "{display:none!important}\n" if alone else "")


def _policy(css: str, js: str | None) -> str:
    """The page's content security policy: its own style and script, nothing else."""
    scripts = "" if js is None else f" script-src '{_hash(js)}';"
    return f"default-src 'none'; style-src '{_hash(css)}';{scripts} base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _css() -> str:
    """The styles of all pages."""
    return _text("board.css") + (files("sparse_tasks.evaluators") / "scrolls.css").read_text(encoding="utf-8")


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
        "target": lambda value: TYPESET.formatted(value, "g"),
        "awareness": awareness,
        "columns": _columns,
        "count": counted,
        "is_mail": _is_mail,
        "label": label,
        "p": TYPESET.p_value,
        "percent": lambda value: TYPESET.share(value, 0),
        "phase": _phase,
        "rank": _rank,
        "share": _share,
        "size": lambda value: TYPESET.missing if value is None else size(value),
        "shown": shown,
        "times": TYPESET.factor,
    }
    return environment.get_template(name)
