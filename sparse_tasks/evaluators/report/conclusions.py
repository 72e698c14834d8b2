"""Sections that show analyses: cost, certified sparsity, length, scaling laws and ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

import pandas as pd

from sparse_tasks.core.format import TYPESET, known
from sparse_tasks.core.length import label
from sparse_tasks.evaluators.analyses.columns import Row, TextColumn
from sparse_tasks.evaluators.report import wording
from sparse_tasks.evaluators.report.blocks import Block, Figure, Key, Note, Picture, Section, Table, Text
from sparse_tasks.evaluators.report.context import (
    ATTENTION,
    MAKE,
    MOST_LINES,
    TARGET,
    Context,
    rows,
    text_table,
)
from sparse_tasks.evaluators.report.palette import DENSE, style
from sparse_tasks.evaluators.report.plots import SCORE, Axis, Line, Mark, Point, key, length_axis, lines, marks

_PHASES: Final = {"prefill": "FLOPs to read a prompt", "decode": "elements read to write a token"}
_PHASE: Final = MAKE.text("phase", "phase")

_Place: TypeAlias = tuple[str, int, str]  # phase, length and run


def iso_cost(context: Context) -> Section:
    """Score against cost, a panel for each phase and length, and the best run for the cost of each dense run."""
    section = Section("cost", "Score against cost")
    points = context.analysis.pareto.dropna(subset="cost")
    if points.empty and not context.differences:
        return section
    if points.empty:
        section.blocks += context.notes("pareto")
        section.blocks.append(Note("No cost is known: it takes the sizes of the models, and measured sparsity."))
        return section
    section.blocks.append(
        Text(
            "Each point is a run: its mean score over tasks, against what its attention and the rest of the model cost "
            "in theory, at measured sparsity and with the method's index. The steps are the frontier: no other run "
            "costs less and scores as much. Filled and numbered points lie on it; the share is how often a point does "
            "when the samples are drawn anew."
        )
    )
    for phase, axis in _PHASES.items():
        section.blocks += _cost_figure(context, phase, axis, points[points["phase"] == phase])
    section.blocks += [*_best_for_budget(context), *_speedups(context)]
    section.blocks += context.notes("pareto")
    return section


def _cost_figure(context: Context, phase: str, axis: str, points: pd.DataFrame) -> Iterator[Block]:
    if points.empty:
        return
    models = list(points["model"].unique())
    ends = Axis(axis, points["cost"].min() / 1.4, points["cost"].max() * 1.4, scale="log")
    pictures, numbers = [], dict[_Place, int]()
    points = points.sort_values(["length", "cost", "run"])
    for (length, prompts), panel in points.groupby(["length", "prompts"]):
        frontier = rows(panel[panel["on_frontier"]])
        numbers |= {_place(row): number for number, row in enumerate(frontier, start=1)}
        at = f"{label(length)}{context.kind(prompts)}"
        title = f"Score against cost of {phase} at {at}"
        best = (f"{_who(row)}: {TYPESET.number(row.score, 2)} at {TYPESET.large(row.cost)}" for row in frontier)
        drawn = [_mark(context, models, row, numbers.get(_place(row))) for row in rows(panel)]
        about = f"On the frontier: {'; '.join(best)}."
        svg = marks(context.name(), title, about, ends, SCORE, drawn, [_point(row) for row in frontier])
        pictures.append(Picture(at, svg))
    caption = f"Score against cost of {phase}"
    table = _cost_table(context, f"Numbers: {caption}", rows(points), numbers)
    if context.room_for(len(pictures), "cost"):
        keys = _cost_keys(context, list(points["attention"].unique()), models)
        yield Figure(caption, tuple(pictures), keys, table, large=True)
    else:
        yield Note(f"{caption}: there are more panels than a page can show; the table has the numbers.")
        yield table


def _mark(context: Context, models: Sequence[str], row: Row, number: int | None) -> Mark:
    look = context.styles[row.attention]
    # With several models the marker shows the model, the colour the method.
    marker = style(models.index(row.model)).marker if len(models) > 1 else look.marker or "*"
    return Mark(look, marker, _point(row), "" if number is None else str(number))


def _cost_keys(context: Context, attentions: Sequence[str], models: Sequence[str]) -> tuple[Key, ...]:
    several = len(models) > 1
    keys = []
    for name in attentions:
        look = context.styles[name]
        keys.append(Key(key(context.name(), look, "s" if several else look.marker or "*"), wording.name(name)))
    for number, name in enumerate(models if several else ()):
        keys.append(Key(key(context.name(), DENSE, style(number).marker, filled=False), wording.name(name)))
    return tuple(keys)


def _cost_table(context: Context, caption: str, shown: Sequence[Row], numbers: Mapping[_Place, int]) -> Table:
    columns = [
        *(MAKE.length(), *context.model, ATTENTION, TARGET, _written("cost", "cost", TYPESET.large)),
        *(MAKE.number("mean score", "score"), MAKE.interval("95% interval")),
        TextColumn("on the frontier as", lambda row: str(numbers.get(_place(row), TYPESET.missing))),
        MAKE.share("share", "frontier_share"),
    ]
    return text_table(caption, shown, columns, 3, folded=True)


def _best_for_budget(context: Context) -> Iterator[Block]:
    models = {run.name: run.model for run in context.runs.runs}

    def interval(row: Row) -> str:
        # A dense run has no gain over itself, and no uncertainty.
        same = row.best == row.budget_of
        return TYPESET.missing if same else TYPESET.interval(row.low, row.high, sign=True)

    columns = [
        *(_PHASE, MAKE.length()),
        TextColumn("for the cost of dense", lambda row: wording.name(models[row.budget_of]), numeric=False),
        *(
            _written("cost", "budget", TYPESET.large),
            MAKE.text("best model", "model"),
            *context.model[1:],
            ATTENTION,
            TARGET,
        ),
        *(MAKE.number("mean score", "score"), MAKE.signed("gain", "gain"), TextColumn("its 95% interval", interval)),
    ]
    if shown := rows(context.analysis.iso_cost):
        yield text_table("Best run for the cost of each dense run", shown, columns, 3)


def _speedups(context: Context) -> Iterator[Block]:
    columns = [
        *(*context.model, ATTENTION, TARGET, MAKE.length()),
        *(MAKE.number(f"density, {phase}", f"density_{phase}") for phase in _PHASES),
        *(
            MAKE.share("attention of dense FLOPs", "attention_share"),
            _written("prefill speedup", "prefill_speedup", TYPESET.factor),
        ),
        *(MAKE.share("cache of dense reads", "kv_share"), _written("decode speedup", "decode_speedup", TYPESET.factor)),
    ]
    if shown := rows(context.analysis.cost):
        caption = "Theoretical speedups at batch size 1"
        yield text_table(caption, shown, columns, 2, folded=True)


def _written(heading: str, field: str, write: Callable[[float], str]) -> TextColumn:
    return TextColumn(heading, lambda row: write(getattr(row, field)))


def _point(row: Row) -> Point:
    return Point(row.cost, row.score, row.low, row.high)


def _place(row: Row) -> _Place:
    return row.phase, row.length, row.run


def _who(row: Row) -> str:
    target = "" if row.attention == "dense" or not known(row.asked) else f" {row.asked:g}"
    return f"{wording.name(row.model)}, {wording.name(row.attention)}{target}"


def certified(context: Context) -> Section:
    """The certified sparsity of each method: overall, by length, by task."""
    section = Section("certified", "Certified sparsity")
    table = context.analysis.certified
    if table.empty:
        section.blocks += context.notes("certified") if context.differences else ()
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
    where = {
        "all": ("over all tasks and lengths", []),
        "length": ("by length", [MAKE.length()]),
        "task": ("by task and length", [MAKE.text("task", "task"), MAKE.length()]),
    }
    for scope, (words, places) in where.items():
        columns = [
            *(*context.model, ATTENTION, *places, MAKE.formatted("certified", "certified", ".3g")),
            *(MAKE.number("measured there", "measured"), MAKE.number("mean loss there", "loss"), MAKE.count("n", "n")),
            *(_written("p", "p_value", TYPESET.p_value), MAKE.count("target sparsities", "tested")),
            _written("p of the next", "next_p_value", TYPESET.p_value),
        ]
        if shown := rows(table[table["scope"] == scope]):
            folded = True if scope == "task" else None
            caption = f"Certified sparsity, {words}"
            section.blocks.append(text_table(caption, shown, columns, 2 + len(places), folded=folded))
    section.blocks += context.notes("certified")
    return section


def lengths_and_laws(context: Context) -> Section:
    """Whether longer prompts tolerate more sparsity, the fitted scaling laws, and the ranks of methods."""
    section = Section("laws", "Length, scaling laws and ranks")
    if not context.differences:
        return section
    section.blocks += [*_length_effects(context), *_laws(context), *_ranks(context)]
    return section


def _length_effects(context: Context) -> Iterator[Block]:
    effects = context.analysis.lengths
    columns = [
        *(*context.model, ATTENTION, TARGET, MAKE.length(), MAKE.count("n", "n"), MAKE.number("dense", "dense")),
        *(MAKE.number("sparse", "sparse"), MAKE.signed("relative error", "relative_error")),
        MAKE.interval("95% interval", sign=True),
    ]
    table = text_table("Relative error by length", rows(effects), columns, 2, folded=True)
    sure = effects.dropna(subset="low")
    pictures = list(_length_panels(context, sure)) if effects["length"].nunique() > 1 else []
    if not pictures:
        yield table
    else:
        yield Text(
            "Relative error is the share of dense attention's score that is lost. A line that falls to the right says "
            "that longer prompts tolerate the same sparsity better."
        )
        attentions = list(sure["attention"].unique())[:MOST_LINES]
        yield Figure("Relative error against length", tuple(pictures), context.keys(attentions), table)
        if len(pictures) < len(sure.dropna(subset="asked").drop_duplicates(["model", "prompts", "asked"])):
            yield Note("Models and sparsities beyond what a page can show have no panel; the table has all of them.")
    yield from context.notes("lengths")


def _length_panels(context: Context, effects: pd.DataFrame) -> Iterator[Picture]:
    attentions = list(effects["attention"].unique())[:MOST_LINES]
    several = effects["model"].nunique() > 1
    low, high = max(-1.0, min(0.0, effects["low"].min())), min(1.0, max(0.1, effects["high"].max()))
    scale = Axis("relative error", low - 0.03, high + 0.03)
    for (model, prompts, target), panel in effects.groupby(["model", "prompts", "asked"], observed=True, sort=True):
        if panel["length"].nunique() < 2 or not context.room_for(1, "length"):
            continue
        drawn, about = [], []
        for name in attentions:
            method = panel[panel["attention"] == name].sort_values("length")
            if method.empty:
                continue
            points = method[["length", "relative_error", "low", "high"]].itertuples(index=False, name=None)
            drawn.append(Line(context.styles[name], tuple(Point(*point) for point in points)))
            errors = ", ".join(TYPESET.signed(error, 2) for error in method["relative_error"])
            about.append(f"{wording.name(name)}: {errors}")
        who = f"{wording.name(model)}, " if several else ""
        title = f"{who}sparsity {target:g}{context.kind(prompts)}"
        described = f"From the shortest prompts to the longest: {'; '.join(about)}."
        axis = length_axis(sorted(effects["length"].unique().tolist()))
        svg = lines(context.name(), f"{title}: relative error by length", described, axis, scale, drawn)
        yield Picture(title, svg)


def _laws(context: Context) -> Iterator[Block]:
    laws = context.analysis.scaling
    if coefficients := rows(laws.coefficients):
        yield Text(
            "The scaling law: the log-odds of a score are the intercept, an offset for each task, and the coefficients "
            "times the logarithms of what they are called. A coefficient of −1 halves the odds with each doubling."
        )
        columns = [
            *(_PHASE, MAKE.text("coefficient", "name"), MAKE.signed("estimate", "estimate")),
            MAKE.interval("95% interval", sign=True),
        ]
        yield text_table("Coefficients of the scaling law", coefficients, columns, 2)
    errors = (MAKE.number("R²", "r2", 2), MAKE.number("mean absolute error", "mae"))
    if fits := rows(laws.fits):
        counts = (MAKE.count(name, name) for name in ("runs", "cells", "samples"))
        yield text_table("How well the law describes what it was fitted to", fits, [_PHASE, *counts, *errors])
    if held_out := rows(laws.held_out):
        largest = TextColumn("held out", lambda row: f"the largest {row.held_out}", numeric=False)
        caption = "How well the law predicts held-out cells"
        yield text_table(caption, held_out, [_PHASE, largest, *errors, MAKE.count("cells", "n")], 2)
    yield from context.notes("scaling")


def _ranks(context: Context) -> Iterator[Block]:
    """Ranks of methods of one sparsity, by task, over all lengths."""
    ranked = rows(context.analysis.tradeoffs.query("length.isna() and rank.notna()"))
    compared = defaultdict[tuple[str, str, float], set[str]](set)
    for row in ranked:
        compared[row.model, row.prompts, row.asked].add(row.attention)
    columns = [
        *(
            *context.model,
            TARGET,
            MAKE.text("task", "task", "mean of tasks"),
            ATTENTION,
            MAKE.formatted("rank", "rank", "g"),
        ),
        *(MAKE.rank_interval("95% of resamples"), MAKE.number("mean score", "score")),
        *(MAKE.signed("vs dense", "difference"), MAKE.interval("its 95% interval", sign=True), MAKE.count("n", "n")),
    ]
    if shown := [row for row in ranked if len(compared[row.model, row.prompts, row.asked]) > 1]:
        yield Text("Ranks compare methods of the same model and sparsity, over all lengths; 1 scores highest.")
        yield text_table("Ranks of methods by task", shown, columns, 4)
    yield from context.notes("tradeoffs")
