"""Sections that show analyses: cost, certified sparsity, length, scaling laws and ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

from sparse_tasks.core.format import TYPESET
from sparse_tasks.core.length import label
from sparse_tasks.evaluators.report import wording
from sparse_tasks.evaluators.report.blocks import Block, Column, Figure, Key, Note, Picture, Section, Table, Text
from sparse_tasks.evaluators.report.context import LONG, MOST_LINES, NEEDS_BOTH, Context, records
from sparse_tasks.evaluators.report.palette import DENSE, style
from sparse_tasks.evaluators.report.plots import SCORE, Axis, Line, Mark, Point, key, length_axis, lines, marks

__all__ = ["certified", "iso_cost", "lengths_and_laws"]

_PHASES: Final = {"prefill": "FLOPs to read a prompt", "decode": "elements read to write a token"}


# --- cost ---------------------------------------------------------------------------------------------------


def iso_cost(context: Context) -> Section:
    """Score against cost, a panel for each phase and length, and what serves best for the cost of each dense run."""
    section = Section("cost", "Score against cost")
    rows = [row for row in records(context.analysis.pareto) if not math.isnan(row["cost"])]
    if not rows:
        section.blocks += context.notes("pareto")
        section.blocks.append(Note("No cost is known: it takes the sizes of the models, and measured sparsity."))
        return section
    section.blocks.append(
        Text(
            "Each point is a run: its mean score over tasks, against what its attention and the rest of the model cost "
            "in theory, at the sparsity that was measured and with what finding the keys costs. The steps are the "
            "frontier: no other run costs less and scores as much. Filled and numbered points lie on it; the share is "
            "how often a point does when the samples are drawn anew."
        )
    )
    section.blocks += _cost_figures(context, rows)
    section.blocks += [*_best_for_budget(context), *_speedups(context)]
    section.blocks += context.notes("pareto")
    return section


def _cost_figures(context: Context, rows: Sequence[dict[str, Any]]) -> Iterator[Block]:
    models = list(dict.fromkeys(row["model"] for row in rows))
    for phase, axis in _PHASES.items():
        of_phase = [row for row in rows if row["phase"] == phase]
        lengths = sorted({row["length"] for row in of_phase})
        if not lengths:
            continue
        costs = [row["cost"] for row in of_phase]
        ends = Axis(axis, min(costs) / 1.4, max(costs) * 1.4, scale="log")
        pictures, numbers = [], dict[tuple[Any, ...], int]()
        for length in lengths:
            here = sorted(
                (row for row in of_phase if row["length"] == length), key=lambda row: (row["cost"], row["run"])
            )
            on = [row for row in here if row["on_frontier"]]
            numbers |= {_place(row): number for number, row in enumerate(on, start=1)}
            title = f"Score against cost of {phase} at {label(length)}"
            best = "; ".join(
                f"{_who(row)}: {TYPESET.number(row['score'], 2)} at {TYPESET.large(row['cost'])}" for row in on
            )
            drawn = [_mark(context, models, row, numbers.get(_place(row))) for row in here]
            frontier = [_point(row) for row in on]
            svg = marks(context.name(), title, f"On the frontier: {best}.", ends, SCORE, drawn, frontier)
            pictures.append(Picture(label(length), svg))
        caption = f"Score against cost of {phase}"
        table = _cost_table(f"Numbers: {caption}", of_phase, numbers)
        if context.room_for(len(pictures), "cost"):
            yield Figure(caption, tuple(pictures), _cost_keys(context, of_phase, models), table, large=True)
        else:
            yield Note(f"{caption}: there are more panels than a page can show; the table has the numbers.")
            yield table


def _mark(context: Context, models: Sequence[str], row: dict[str, Any], number: int | None) -> Mark:
    look = context.styles[row["attention"]]
    # With several models a marker stands for the model, the colour for the method.
    marker = style(models.index(row["model"])).marker if len(models) > 1 else look.marker or "*"
    return Mark(look, marker, _point(row), "" if number is None else str(number))


def _cost_keys(context: Context, rows: Sequence[dict[str, Any]], models: Sequence[str]) -> tuple[Key, ...]:
    several = len(models) > 1
    attentions = list(dict.fromkeys(row["attention"] for row in rows))
    of_methods = [
        Key(key(context.name(), context.styles[name], "s" if several else context.styles[name].marker or "*"),
            wording.name(name))
        for name in attentions
    ]  # fmt: skip
    of_models = [
        Key(key(context.name(), DENSE, style(number).marker, filled=False), wording.name(name))
        for number, name in enumerate(models)
    ]
    return (*of_methods, *(of_models if several else []))


def _cost_table(caption: str, rows: Sequence[dict[str, Any]], numbers: dict[tuple[Any, ...], int]) -> Table:
    columns = (
        *(Column("length"), Column("model", numeric=False), Column("attention", numeric=False), Column("asked")),
        *(Column("cost"), Column("mean score"), Column("95% interval"), Column("on the frontier as"), Column("share")),
    )
    written = [
        [
            *(label(int(row["length"])), wording.name(row["model"]), wording.name(row["attention"]), _asked(row)),
            *(TYPESET.large(row["cost"]), TYPESET.number(row["score"]), TYPESET.interval(row["low"], row["high"])),
            *(str(numbers.get(_place(row), "–")), TYPESET.share(row["frontier_share"])),
        ]
        for row in sorted(rows, key=lambda row: (row["length"], row["cost"], row["run"]))
    ]
    return Table(caption, columns, written, headers=3, folded=True)


def _best_for_budget(context: Context) -> Iterator[Block]:
    """For the cost of each dense run, the run that scores best."""
    rows = [
        [
            *(
                str(row["phase"]),
                label(int(row["length"])),
                wording.name(row["model_of_budget"]),
                TYPESET.large(row["budget"]),
            ),
            *(wording.name(row["model"]), wording.name(row["attention"]), _asked(row), TYPESET.number(row["score"])),
            *(TYPESET.signed(row["gain"]), _gain_interval(row)),
        ]
        for row in _with_models(context)
    ]
    columns = (
        *(Column("phase", numeric=False), Column("length"), Column("for the cost of dense", numeric=False)),
        *(Column("cost"), Column("best model", numeric=False), Column("attention", numeric=False), Column("asked")),
        *(Column("mean score"), Column("gain"), Column("its 95% interval")),
    )
    if rows:
        yield Table("Best run for the cost of each dense run", columns, rows, headers=3, folded=len(rows) > LONG)


def _gain_interval(row: dict[str, Any]) -> str:
    """A dense run gains nothing over itself, and of that there is no doubt."""
    return "–" if row["best"] == row["budget_of"] else TYPESET.interval(row["low"], row["high"], sign=True)


def _with_models(context: Context) -> Iterator[dict[str, Any]]:
    models = {run.name: run.model for run in context.runs.runs}
    for row in records(context.analysis.iso_cost):
        yield row | {"model_of_budget": models.get(row["budget_of"], row["budget_of"])}


def _speedups(context: Context) -> Iterator[Block]:
    rows = [
        [
            *(wording.name(row["model"]), wording.name(row["attention"]), _asked(row), label(int(row["length"]))),
            *(TYPESET.number(row[f"density_{phase}"]) for phase in ("prefill", "decode")),
            *(TYPESET.share(row["attention_share"]), TYPESET.factor(row["prefill_speedup"])),
            *(TYPESET.share(row["kv_share"]), TYPESET.factor(row["decode_speedup"])),
        ]
        for row in records(context.analysis.cost)
    ]
    columns = (
        *(Column("model", numeric=False), Column("attention", numeric=False), Column("asked"), Column("length")),
        *(Column("density, prefill"), Column("density, decode"), Column("attention of dense FLOPs")),
        *(Column("prefill speedup"), Column("cache of dense reads"), Column("decode speedup")),
    )
    if rows:
        yield Table("Speedups that are possible in theory, at batch size 1", columns, rows, headers=2, folded=True)


def _point(row: dict[str, Any]) -> Point:
    return Point(row["cost"], row["score"], row["low"], row["high"])


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["phase"], row["length"], row["run"]


def _asked(row: dict[str, Any]) -> str:
    return "–" if row["asked"] is None or math.isnan(row["asked"]) else f"{row['asked']:g}"


def _who(row: dict[str, Any]) -> str:
    asked = "" if row["attention"] == "dense" or _asked(row) == "–" else f" {_asked(row)}"
    return f"{wording.name(row['model'])}, {wording.name(row['attention'])}{asked}"


# --- certified sparsity -------------------------------------------------------------------------------------


def certified(context: Context) -> Section:
    """The largest sparsity of each method that surely loses little: over all, by length, by task."""
    section = Section("certified", "Certified sparsity")
    rows = records(context.analysis.certified)
    if not rows:
        section.blocks += [*context.notes("certified"), *([] if context.differences else [NEEDS_BOTH])]
        return section
    tolerance, error = context.analysis.tolerance, context.analysis.error
    section.blocks.append(
        Text(
            f"The largest sparsity whose mean loss against dense attention is at most {tolerance:g}, with a chance of "
            f"at most {100 * error:g}% that any claim for a method in a table is wrong (Learn then Test). Loss counts "
            "samples that got worse; those that got better do not make up for them. A dash says that none of the "
            "sparsities that were run is certified."
        )
    )
    scopes = {"all": "over all tasks and lengths", "length": "by length", "task": "by task and length"}
    for scope, words in scopes.items():
        of_it = [row for row in rows if row["scope"] == scope]
        if of_it:
            section.blocks.append(_certified(f"Certified sparsity, {words}", scope, of_it))
    section.blocks += context.notes("certified")
    return section


def _certified(caption: str, scope: str, rows: Sequence[dict[str, Any]]) -> Table:
    where = {"all": [], "length": ["length"], "task": ["task", "length"]}[scope]
    columns = (
        *(Column("model", numeric=False), Column("attention", numeric=False)),
        *(Column(name, numeric=name == "length") for name in where),
        *(Column("certified"), Column("measured there"), Column("mean loss there"), Column("n"), Column("p")),
        *(Column("sparsities asked"), Column("p of the next")),
    )
    written = [
        [
            *(wording.name(row["model"]), wording.name(row["attention"])),
            *(label(int(row[name])) if name == "length" else str(row[name]) for name in where),
            *("–" if math.isnan(row["certified"]) else f"{row['certified']:.3g}", TYPESET.number(row["measured"])),
            *(TYPESET.number(row["loss"]), f"{row['n']:,}", _p(row["p_value"]), f"{row['tested']:,}"),
            _p(row["next_p_value"]),
        ]
        for row in rows
    ]
    return Table(caption, columns, written, headers=2 + len(where), folded=scope == "task" or len(written) > LONG)


def _p(value: float) -> str:
    return "–" if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


# --- length, scaling laws, ranks ----------------------------------------------------------------------------


def lengths_and_laws(context: Context) -> Section:
    """Whether longer prompts tolerate more, what a law says of other runs, and which method leads where."""
    section = Section("laws", "Length, scaling laws and ranks")
    if not context.differences:
        section.blocks.append(NEEDS_BOTH)
        return section
    section.blocks += [*_length_effects(context), *_laws(context), *_ranks(context)]
    return section


def _length_effects(context: Context) -> Iterator[Block]:
    rows = records(context.analysis.lengths)
    table = Table(
        "Relative error by length",
        (
            *(Column("model", numeric=False), Column("attention", numeric=False), Column("asked"), Column("length")),
            *(Column("n"), Column("dense"), Column("sparse"), Column("relative error"), Column("95% interval")),
        ),
        [
            [
                *(wording.name(row["model"]), wording.name(row["attention"]), _asked(row), label(int(row["length"]))),
                *(f"{row['n']:,}", TYPESET.number(row["dense"]), TYPESET.number(row["sparse"])),
                *(TYPESET.signed(row["relative_error"]), TYPESET.interval(row["low"], row["high"], sign=True)),
            ]
            for row in rows
        ],
        headers=2,
        folded=True,
    )
    lengths = sorted({int(row["length"]) for row in rows})
    known = [row for row in rows if not math.isnan(row["low"])]
    pictures = list(_length_panels(context, known)) if len(lengths) > 1 else []
    if not pictures:
        yield table
    else:
        yield Text(
            "Relative error is the share of dense attention's score that is lost. A line that falls to the right says "
            "that longer prompts tolerate the same sparsity better."
        )
        attentions = list(dict.fromkeys(row["attention"] for row in known))[:MOST_LINES]
        yield Figure("Relative error against length", tuple(pictures), context.keys(attentions), table)
        if len(pictures) < len({(row["model"], row["asked"]) for row in known if not math.isnan(row["asked"])}):
            yield Note("Models and sparsities beyond what a page can show have no panel; the table has all of them.")
    yield from context.notes("lengths")


def _length_panels(context: Context, rows: Sequence[dict[str, Any]]) -> Iterator[Picture]:
    """A panel for each model and sparsity."""
    lengths = sorted({int(row["length"]) for row in rows})
    models = list(dict.fromkeys(row["model"] for row in rows))
    attentions = list(dict.fromkeys(row["attention"] for row in rows))[:MOST_LINES]
    low, high = min((row["low"] for row in rows), default=0.0), max((row["high"] for row in rows), default=0.0)
    scale = Axis("relative error", max(-1.0, min(0.0, low)) - 0.03, min(1.0, max(0.1, high)) + 0.03)
    for model in models:
        for asked in sorted({row["asked"] for row in rows if row["model"] == model and not math.isnan(row["asked"])}):
            of_it = [row for row in rows if row["model"] == model and row["asked"] == asked]
            if len({row["length"] for row in of_it}) < 2 or not context.room_for(1, "length"):
                continue
            drawn = [
                Line(context.styles[name], tuple(
                    Point(row["length"], row["relative_error"], row["low"], row["high"])
                    for row in sorted(of_it, key=lambda row: row["length"]) if row["attention"] == name))
                for name in attentions
            ]  # fmt: skip
            said = "; ".join(
                f"{wording.name(name)}: {', '.join(TYPESET.signed(point.y, 2) for point in line.points)}"
                for name, line in zip(attentions, drawn, strict=True)
                if line.points
            )
            who = f"{wording.name(model)}, " if len(models) > 1 else ""
            title = f"{who}sparsity {asked:g}: relative error by length"
            about = f"From the shortest prompts to the longest: {said}."
            svg = lines(
                context.name(), title, about, length_axis(lengths), scale, [line for line in drawn if line.points]
            )
            yield Picture(f"{who}sparsity {asked:g}", svg)


def _laws(context: Context) -> Iterator[Block]:
    found = context.analysis.scaling
    coefficients, held_out = records(found.coefficients), records(found.held_out)
    if coefficients:
        yield Text(
            "The scaling law: the log-odds of a score are the intercept, an offset for each task, and the coefficients "
            "times the logarithms of what they are called. A coefficient of −1 halves the odds with each doubling."
        )
        columns = (
            Column("phase", numeric=False),
            Column("coefficient", numeric=False),
            Column("estimate"),
            Column("95% interval"),
        )
        rows = [
            [str(row["phase"]), wording.name(str(row["name"])), TYPESET.signed(row["estimate"]),
             TYPESET.interval(row["low"], row["high"], sign=True)]
            for row in coefficients
        ]  # fmt: skip
        yield Table("Coefficients of the scaling law", columns, rows, headers=2, folded=len(rows) > LONG)
    fits = records(found.fits)
    if fits:
        yield Table(
            "How well the law describes what it was fitted to",
            (
                *(Column("phase", numeric=False), Column("runs"), Column("cells"), Column("samples"), Column("R²")),
                Column("mean absolute error"),
            ),
            [
                [str(row["phase"]), *(f"{row[name]:,}" for name in ("runs", "cells", "samples")),
                 TYPESET.number(row["r2"], 2), TYPESET.number(row["mae"])]
                for row in fits
            ],
        )  # fmt: skip
    if held_out:
        yield Table(
            "How well the law foretells what it was not fitted to",
            (
                *(Column("phase", numeric=False), Column("held out", numeric=False), Column("R²")),
                *(Column("mean absolute error"), Column("cells")),
            ),
            [
                [str(row["phase"]), f"the largest {row['held_out']}", TYPESET.number(row["r2"], 2),
                 TYPESET.number(row["mae"]), f"{row['n']:,}"]
                for row in held_out
            ],
            headers=2,
        )  # fmt: skip
    yield from context.notes("scaling")


def _ranks(context: Context) -> Iterator[Block]:
    """Of methods of one sparsity, by task, over all lengths."""
    found = [
        row for row in records(context.analysis.tradeoffs) if _missing(row["length"]) and not _missing(row["rank"])
    ]
    compared: dict[tuple[str, float], set[str]] = {}
    for row in found:
        compared.setdefault((row["model"], row["asked"]), set()).add(row["attention"])
    rows = [
        [
            *(wording.name(row["model"]), _asked(row), "mean of tasks" if _missing(row["task"]) else str(row["task"])),
            *(wording.name(row["attention"]), f"{row['rank']:g}", f"{row['rank_low']:g} to {row['rank_high']:g}"),
            *(TYPESET.number(row["score"]), TYPESET.signed(row["difference"])),
            *(TYPESET.interval(row["low"], row["high"], sign=True), f"{row['n']:,}"),
        ]
        for row in found
        if len(compared[row["model"], row["asked"]]) > 1
    ]
    if rows:
        columns = (
            *(Column("model", numeric=False), Column("asked"), Column("task", numeric=False)),
            *(Column("attention", numeric=False), Column("rank"), Column("95% of resamples"), Column("mean score")),
            *(Column("less dense"), Column("its 95% interval"), Column("n")),
        )
        yield Text("Ranks compare methods of the same model and sparsity, over all lengths; 1 scores highest.")
        yield Table("Ranks of methods by task", columns, rows, headers=4, folded=len(rows) > LONG)
    yield from context.notes("tradeoffs")


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
