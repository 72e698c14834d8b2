"""``sparse-tasks compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparse_tasks.cli.output import Format, PartialOption, frameless, print_json, print_table
from sparse_tasks.cli.running import attention_of, print_unable, prompts
from sparse_tasks.core.format import PLAIN

if TYPE_CHECKING:
    from sparse_tasks.evaluators.ladder import Ladder
    from sparse_tasks.evaluators.records import ComparedAverage, ComparedTask, Comparison, RunSettings


def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="A scored run, usually the dense baseline.")],
    run_b: Annotated[
        Path | None,
        typer.Argument(metavar="RUN_B", help="The run to compare with A; optional with --ladder."),
    ] = None,
    common: Annotated[bool, typer.Option("--common", help="Compare only the samples that both runs have.")] = False,
    level: Annotated[float, typer.Option(metavar="P", help="Confidence level of the intervals, in (0, 1).")] = 0.95,
    repeat: Annotated[
        list[Path] | None,
        typer.Option(
            "--repeat",
            metavar="RUN",
            help="Repeat of RUN_A or RUN_B (other batches or engine), for the serving variance. May be repeated.",
        ),
    ] = None,
    ladder: Annotated[
        bool,
        typer.Option(
            "--ladder", help="Compare the levels of one question: what is lost in retrieval and what in reasoning."
        ),
    ] = False,
    partial: PartialOption = False,
    format: Annotated[Format, typer.Option(help="Output format.")] = Format.human,
) -> None:
    """Compare two runs over the same data set, sample by sample.

    Differences are B minus A. P-values come from paired permutation tests, Holm-corrected over the tasks of a length.

    If B is A with --begin-answer, the differences show how much A loses by the form of its answers.
    """
    from sparse_tasks.core.errors import UsageError
    from sparse_tasks.core.records import to_builtins
    from sparse_tasks.evaluators.ladder import ladders
    from sparse_tasks.evaluators.repeats import compare_repeated
    from sparse_tasks.evaluators.results import compare_runs
    from sparse_tasks.evaluators.runs import read_settings

    if ladder and repeat:
        raise UsageError("repeat", str(repeat[0]), "cannot be combined with --ladder; leave one of them out")
    if run_b is None:
        if not ladder:
            raise UsageError("runs", str(run_a), "is one run; name a second one to compare it with")
        _print_ladders(run_a, ladders(run_a, level=level, partial=partial), level, format)
        return
    if ladder:
        comparison = compare_runs(run_a, run_b, common=common, level=level, partial=partial, ladder=True)
    else:
        comparison = compare_repeated(run_a, run_b, repeat or [], common=common, level=level, partial=partial)
    if format is Format.json:
        print_json({"run_a": str(run_a), "run_b": str(run_b), **to_builtins(comparison)})
        return
    _print(comparison, [(folder, read_settings(folder)) for folder in (run_a, run_b)], bool(repeat), ladder)
    if ladder:
        _print_losses(comparison)


def _print_ladders(run: Path, found: list[Ladder], level: float, format: Format) -> None:
    """Print the rungs of a run's ladders, and the steps between them."""
    from sparse_tasks.core.length import label
    from sparse_tasks.core.records import to_builtins
    from sparse_tasks.evaluators.runs import read_settings

    if format is Format.json:
        print_json({"run": str(run), "level": level, "ladders": [to_builtins(one) for one in found]})
        return
    settings = read_settings(run)
    print(f"{run} ({settings.model.name}, attention {attention_of(settings)}{prompts(settings)})")
    for length in dict.fromkeys(one.length for one in found):
        rungs = frameless("task", ("n", *(_words(rung.rung) for rung in found[0].rungs), "unparsed"))
        steps = frameless("task", ("step", "difference", f"{level:.0%} interval", "p"))
        for one in found:
            if one.length == length:
                means = (PLAIN.number(rung.mean) for rung in one.rungs)
                rungs.add_row(one.task, f"{one.n:,}", *means, f"{one.unparsed:.0%}")
                for step in [] if one.unable else one.steps:
                    limits = PLAIN.interval(step.interval.low, step.interval.high, sign=True)
                    taken = f"{_words(step.rung)} - {_words(step.less)}"
                    steps.add_row(one.task, taken, PLAIN.signed(step.difference), limits, PLAIN.p_value(step.p_holm))
        print(f"\nlength {label(length)}")
        print_table(rungs)
        if steps.row_count:
            print()
            print_table(steps)
    print("\ngiven: the question repeats the facts, so only the reasoning is left;")
    print("retrieve: asks only for the facts; two prompts: first the facts, then the rest;")
    print("all: both at once.")
    print("unparsed: samples with an answer that cannot be read; such a loss is form.")
    print("p: paired permutation test, Holm-corrected over the steps of a length.")
    print_unable([(one.length, one.task) for one in found if one.unable], len(found))


def _words(rung: str) -> str:
    return rung.replace("_", " ")


def _print_losses(comparison: Comparison) -> None:
    """Print the rungs of each ladder in which run b loses."""
    from sparse_tasks.core.length import label
    from sparse_tasks.evaluators.ladder import lost_in, split

    places: dict[tuple[int, str], list[ComparedTask]] = {}
    for row in comparison.rows:
        places.setdefault((row.length, split(row.task)[0]), []).append(row)
    print()
    for (length, task), rows in places.items():
        print(f"{task} ({label(length)}): {lost_in(rows)}.")


def _tables(rows: list[ComparedTask], ladder: bool) -> dict[tuple[int, str], list[tuple[str, ComparedTask]]]:
    """Rows with their names, a table for each length; for ladders also for each task, in the order of its rungs."""
    from sparse_tasks.evaluators.ladder import RUNGS, split

    tables: dict[tuple[int, str], list[tuple[str, ComparedTask]]] = {}
    for row in sorted(rows, key=lambda row: row.length):
        task, rung = split(row.task) if ladder else ("", row.task)
        tables.setdefault((row.length, task), []).append((_words(rung) if ladder else rung, row))
    if ladder:
        order = [_words(rung) for rung in RUNGS]
        for named in tables.values():
            named.sort(key=lambda one: order.index(one[0]))
    return tables


def _print(comparison: Comparison, runs: list[tuple[Path, RunSettings]], repeated: bool, ladder: bool) -> None:
    from sparse_tasks.core.length import label
    from sparse_tasks.evaluators.runs import describe_missing

    lacking = (comparison.missing_a, comparison.missing_b)
    for name, (path, run), missing in zip("AB", runs, lacking, strict=True):
        print(f"{name}: {path} ({run.model.name}, attention {attention_of(run)}{prompts(run)})")
        if missing:
            print(f"   PARTIAL: {describe_missing(name, missing, run.dataset.samples)}.")
    difference = "format" if comparison.format_share is True else "B - A"
    for (length, task), rows in _tables(comparison.rows, ladder).items():
        interval = f"{comparison.level:.0%} interval"
        serving = ["serving"] if repeated else []
        table = frameless("level" if ladder else "task", ("n", "A", "B", difference, interval, *serving, "p", "least"))
        for name, row in rows:
            # 1 is the end of the scale: no difference is detectable.
            least = row.smallest_detectable if row.smallest_detectable < 1 else None
            conclusion = [*_difference(row), PLAIN.p_value(row.p_holm), PLAIN.number(least)]
            table.add_row(name, *_means(row), *(["unable"] if row.unable else conclusion))
        for average in comparison.averages:
            if average.length == length and average.tasks > 1:
                table.add_row("mean of tasks", *_means(average), *_difference(average))
        print(f"\nlength {label(length)}{f', {task}' if task else ''}")
        print_table(table)
    print()
    if comparison.left_out_a or comparison.left_out_b:
        print(f"Left out: {comparison.left_out_a} samples that only A has, {comparison.left_out_b} that only B has.")
    if comparison.format_share is True:
        print("format: B - A. B is A with begun answers, so this is what A loses by its form.")
    if repeated:
        _print_serving(comparison)
    of = "level" if ladder else "task"
    print(f"p: paired permutation test, Holm-corrected over the {of}s of a length;")
    print(f"   intervals are for each {of} alone.")
    print("least: the smallest difference that so many pairs would detect in 4 of 5 runs;")
    print("   - if none.")
    print_unable([(row.length, row.task) for row in comparison.rows if row.unable], len(comparison.rows))


def _means(row: ComparedTask | ComparedAverage) -> list[str]:
    return [f"{row.n:,}", PLAIN.number(row.mean_a), PLAIN.number(row.mean_b)]


def _difference(row: ComparedTask | ComparedAverage) -> list[str]:
    serving = [f"{row.serving.limit:.3f}"] if row.serving else []
    return [PLAIN.signed(row.difference), PLAIN.interval(row.interval.low, row.interval.high, sign=True), *serving]


def _print_serving(comparison: Comparison) -> None:
    """Print which differences the serving stack alone could explain."""
    from textwrap import fill

    from sparse_tasks.core.length import label

    rows: list[tuple[str, ComparedTask | ComparedAverage]]
    rows = [(row.task, row) for row in comparison.rows if not row.unable]
    rows += [("mean of tasks", average) for average in comparison.averages if average.tasks > 1]
    within = [f"{name} ({label(row.length)})" for name, row in rows if row.serving and row.serving.within]
    print("serving: the largest difference that batches, engine and machine alone cause")
    print(f"   in {100 * comparison.level:g} of 100 pairs of runs, estimated from the repeats.")
    if within:
        said = f"No larger than that, so the methods need not differ: {', '.join(within)}."
        print(fill(said, 80, initial_indent="   ", subsequent_indent="   ", break_on_hyphens=False))
