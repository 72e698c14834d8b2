"""The first section: what was run, and what sparse attention cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from sparse_tasks.core.format import TYPESET, counted
from sparse_tasks.core.length import label
from sparse_tasks.evaluators.analyses.table import ScoredRun
from sparse_tasks.evaluators.exports.parts import dataset_id
from sparse_tasks.evaluators.report import wording
from sparse_tasks.evaluators.report.blocks import Block, Lines, Section, Table, Text, filled
from sparse_tasks.evaluators.report.context import NEEDS_BOTH, Context, rows
from sparse_tasks.evaluators.report.groups import (
    Difference,
    Group,
    measured,
    scale,
    shaded,
    signed_with_interval,
    sparsity_text,
)
from sparse_tasks.evaluators.results import average


def summary(context: Context) -> Section:
    """The verdict, the runs, and the mean over tasks of every run."""
    section = Section("summary", "Summary")
    section.blocks += (Text(wording.name(sentence), strong=True) for sentence in context.runs.partial())
    section.blocks += _verdict(context)
    if costs := list(_costs(context)):
        section.blocks.append(_cost_table(context, costs))
    section.blocks += [Lines(tuple(_facts(context))), _means(context)]
    return section


def _verdict(context: Context) -> Iterator[Block]:
    comparisons = [
        (difference, run, length, group)
        for group in context.groups
        for run in group.sparse
        for length in group.lengths
        if (difference := context.differences.at_length(run, length)) is not None
    ]
    if context.runs.able.empty:
        yield from (Text(sentence, strong=True) for sentence in context.runs.inability())
        return
    if not comparisons:
        yield NEEDS_BOTH
        return
    verdicts = [difference.verdict for difference, *_ in comparisons]
    lost, gained, alike = (verdicts.count(verdict) for verdict in (-1, 1, 0))
    counts = [
        f"{lost or 'none'} lose score",
        *([f"{gained:,} gain"] if gained else []),
        f"{alike:,} cannot be told from it",
    ]
    worst, best = (choose(comparisons, key=lambda comparison: comparison[0].difference) for choose in (min, max))
    yield Text(
        f"Of {counted(len(comparisons), 'comparison')} with dense attention (a method at a sparsity and a length, "
        f"mean over tasks), {wording.listed(counts)}, by their 95% intervals.",
        strong=True,
    )
    if len(comparisons) > 1:
        yield Text(f"The most is lost by {_described(context, *worst)}; the least by {_described(context, *best)}.")
    if limits := context.serving:
        small = [
            f"{wording.name(run.label)}{context.of(group)} at {label(length)}"
            for difference, run, length, group in comparisons
            if abs(difference.difference) <= limits.get((group.title, length), -1)
        ]
        up_to = [f"{TYPESET.number(limit)} at {label(at)}" for (_, at), limit in limits.items()]
        within = (
            f"No larger, and so no sign of a loss or gain: {wording.listed(small, 12)}" if small else "All are larger"
        )
        yield Text(
            "Batches, engine and machine alone make differences of means of up to "
            f"{wording.listed(up_to, 12)}, by repeats of dense runs. {within}."
        )
    yield from context.unable()


def _described(context: Context, difference: Difference, run: ScoredRun, length: int, group: Group) -> str:
    return f"{wording.name(run.label)}{context.of(group)} at {label(length)}: {difference.written}"


def _costs(context: Context) -> Iterator[tuple[Group, ScoredRun]]:
    """The sparsest run of each method that has a dense one beside it."""
    for group in context.groups:
        for runs in group.attentions.values():
            if any(context.differences.at_length(runs[-1], length) for length in group.lengths):
                yield group, runs[-1]


def _cost_table(context: Context, costs: Sequence[tuple[Group, ScoredRun]]) -> Table:
    """The mean difference of each method where it is sparsest, by length, and what is certified of it."""
    certified = {
        (row.model, row.prompts, row.attention): row.certified
        for row in rows(context.analysis.certified)
        if row.scope == "all"
    }
    lengths = sorted({length for group, _ in costs for length in group.lengths})
    differences = {
        (run.name, length): context.differences.at_length(run, length) for _, run in costs for length in lengths
    }
    limit = scale(differences.values())
    cells = [
        (
            group,
            [
                *(wording.name(run.attention), sparsity_text(run)),
                *(shaded(differences[run.name, length], limit) for length in lengths),
                _certified_text(certified.get((run.model, run.prompts, run.attention), math.nan)),
            ],
        )
        for group, run in costs
    ]
    over = (f"vs dense at {label(length)}" for length in lengths)
    names = ("attention", "sparsity", *over, f"certified to lose at most {context.analysis.tolerance:g}")
    return context.table(
        "What each method costs at its highest sparsity: mean score over tasks, vs dense", names, cells
    )


def _certified_text(value: float) -> str:
    return "none" if math.isnan(value) else f"up to {value:.3g}"


def _facts(context: Context) -> Iterator[tuple[str, str]]:
    runs = context.runs.runs
    models = list(dict.fromkeys(wording.name(run.model) for run in runs))
    methods = [_sparsities(context, name) for name in context.styles if any(run.attention == name for run in runs)]
    data = dict.fromkeys((wording.name(dataset_id(run.settings)), run.settings.dataset.sha256) for run in runs)
    lengths = sorted({config.length for run in runs for config in run.result.configs})
    tasks = list(dict.fromkeys(config.task for run in runs for config in run.result.configs))
    samples = {config.n for run in runs for config in run.result.configs}
    each = counted(max(samples), "sample") if len(samples) == 1 else f"{min(samples):,} to {max(samples):,} samples"
    yield "Runs", f"{len(runs):,}, with {len(context.runs.samples):,} scored samples in all."
    yield "Models" if len(models) > 1 else "Model", wording.listed(models) + "."
    yield "Attention", "; ".join(methods[:12]) + ("; and others." if len(methods) > 12 else ".")
    yield "Data", wording.listed([f"{name} ({sha256[:12]}…)" for name, sha256 in data]) + "."
    yield "Tasks", f"{wording.listed(tasks, 12)}; {each} each, at each length."
    yield "Lengths", f"{wording.listed([label(length) for length in lengths], 12)} tokens."


def _sparsities(context: Context, attention: str) -> str:
    targets = sorted({run.target for run in context.runs.runs if run.attention == attention and run.target is not None})
    if attention == "dense" or not targets:
        return wording.name(attention)
    return f"{wording.name(attention)} at {wording.listed([f'{target:g}' for target in targets], 12)}"


def _means(context: Context) -> Table:
    names = ("attention", "target", "measured", "length", "n", "mean score", "95% interval", "vs dense", "95% interval",
             *(["serving"] if context.serving else []))  # fmt: skip
    rows = [
        (group, _mean(context, group, run, length))
        for group in context.groups
        for run in group.runs
        for length in sorted({config.length for config in run.result.configs})
    ]
    return filled(context.table("Mean over tasks of every run, by length", names, rows))


def _mean(context: Context, group: Group, run: ScoredRun, length: int) -> list[str]:
    """The mean over what the model can do; of all where it can do nothing."""
    configs = [config for config in run.result.configs if config.length == length]
    able = [config for config in configs if not context.fails(group, length, config.task)]
    mean = average(able or configs)
    difference = signed_with_interval(context.differences.at_length(run, length))
    sparsities = [measured(config.sparsity) for config in configs]
    known = [sparsity for sparsity in sparsities if sparsity is not None]
    thinned = sum(known) / len(known) if known and len(known) == len(sparsities) else None
    return [
        *(wording.name(run.attention), sparsity_text(run), TYPESET.number(0.0 if run.dense else thinned)),
        *(label(length), f"{mean.n:,}", TYPESET.number(mean.mean), TYPESET.interval(mean.low, mean.high)),
        *(difference if able else ("unable", TYPESET.missing)),
        *([TYPESET.number(context.serving.get((group.title, length)))] if context.serving else []),
    ]
