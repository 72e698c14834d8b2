"""The samples that sparse attention lost most on, with their evidence and what the models wrote."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import pandas as pd

from sparse_tasks.core.format import TYPESET
from sparse_tasks.core.length import label
from sparse_tasks.core.records import JsonObject
from sparse_tasks.evaluators.analyses.columns import Row
from sparse_tasks.evaluators.analyses.table import Runs, ScoredRun
from sparse_tasks.evaluators.dataset import Dataset, at_hand
from sparse_tasks.evaluators.records import Prediction
from sparse_tasks.evaluators.report import wording
from sparse_tasks.evaluators.report.blocks import Answer, Note, Sample, Section, Text
from sparse_tasks.evaluators.report.context import Context
from sparse_tasks.evaluators.runs import read_predictions
from sparse_tasks.generators.excerpt import Piece, excerpt

_SHOWN: Final = 6
_CANDIDATES: Final = 200  # candidates per task for a spread choice
_MARGIN: Final = 120
_SPANS: Final = 4
_LONGEST_PROMPT, _LONGEST_PIECE, _LONGEST_GOLD, _LONGEST_OUTPUT = 6_000, 1_500, 1_000, 2_000


class _Chosen(NamedTuple):
    run: ScoredRun
    row: Row


def worst(context: Context, data: str | None = None) -> Section:
    """A handful of samples, spread over tasks; errors are those of ``make_report``."""
    section = Section("worst", "Worst samples")
    chosen, compared = _choose(context.runs)
    named = () if data is None else (data,)
    datasets = at_hand((run.settings.dataset for run in context.runs.runs), named)
    if not chosen:
        section.blocks += [Text("No sample lost anything.")] if compared else []
        return section
    lost = "Samples with the largest losses against dense attention"
    said = f"{lost if compared else 'Samples with the lowest scores'}, {len(chosen)} in all, spread over tasks."
    section.blocks.append(Text(f"{said} Evidence, which the answer needs, is marked."))
    if any(one.run.settings.dataset.sha256 not in datasets for one in chosen):
        remedy = "so that prompts are missing; say with --data where it is."
        section.blocks.append(Note(f"The data set is not where the runs found it, {remedy}"))
    dense = {run.pairing: run for run in context.runs.runs if run.dense}
    partners = [dense.get(one.run.pairing) if compared else None for one in chosen]
    words = _outputs([*chosen, *(_Chosen(run, one.row) for run, one in zip(partners, chosen, strict=True) if run)])
    rows = _rows(chosen, datasets)
    for number, (one, partner) in enumerate(zip(chosen, partners, strict=True), start=1):
        row = rows.get((one.run.settings.dataset.sha256, one.row.id))
        answers = [_answer(partner, one.row.id, one.row.dense, words)] if partner is not None else []
        answers.append(_answer(one.run, one.row.id, one.row.score, words))
        section.blocks.append(_sample(number, one, row, answers))
    return section


def _choose(runs: Runs) -> tuple[list[_Chosen], bool]:
    samples = runs.able
    sparse = [run.name for run in runs.runs if not run.dense]
    lost = samples[samples["dense"].notna() & samples["run"].isin(sparse)]
    compared = not lost.empty
    table = lost.assign(lost=lost["dense"] - lost["score"]) if compared else samples.assign(lost=1 - samples["score"])
    table = table[table["lost"] > 0]
    # Among equals the longest prompts, for which sparse attention matters most.
    table = table.sort_values(["lost", "length", "index"], ascending=[False, False, True], kind="stable")
    table = table.groupby("task", observed=True, sort=False).head(_CANDIDATES)
    return [_Chosen(runs[row.run], row) for row in _spread(table)], compared


def _spread(table: pd.DataFrame) -> list[Row]:
    """Rows one after the other: of the task shown least, then what lost most, then of the run shown least."""
    left: list[Row] = list(table.itertuples(index=False))
    tasks, shown, chosen = Counter[str](), Counter[str](), list[Row]()
    while left and len(chosen) < _SHOWN:
        row = min(left, key=lambda row: (tasks[row.task], -row.lost, shown[row.run]))
        chosen.append(row)
        tasks[row.task] += 1
        shown[row.run] += 1
        left = [other for other in left if other.id != row.id]
    return chosen


def _rows(chosen: Sequence[_Chosen], datasets: Mapping[str, Dataset]) -> dict[tuple[str, str], JsonObject]:
    """Rows of the data sets, by hash and id; only chosen ones are kept."""
    ids_by_config: dict[tuple[str, str, int], dict[str, int]] = {}
    for one in chosen:
        sha256 = one.run.settings.dataset.sha256
        ids_by_config.setdefault((sha256, one.row.task, one.row.length), {})[one.row.id] = one.row.index
    rows: dict[tuple[str, str], JsonObject] = {}
    for (sha256, task, length), ids in ids_by_config.items():
        if (dataset := datasets.get(sha256)) is None:
            continue
        selection = dataset.select([task], [length], max(ids.values()) + 1)
        columns = ["id", "task", "length", "prompt", "evidence", "answer"]
        rows |= {(sha256, row["id"]): row for row in dataset.rows(selection, columns) if row["id"] in ids}
    return rows


def _excerpt(row: JsonObject) -> tuple[Piece, ...]:
    """A prompt shortened to its evidence, of limited length."""
    pieces: list[Piece] = []
    left = _LONGEST_PROMPT
    for kind, text in excerpt(row["prompt"], row["evidence"], _MARGIN, _SPANS):
        words, left_out = wording.cut(text, min(left, _LONGEST_PIECE))
        left -= len(words)
        pieces.append((kind, words))
        if left_out:
            pieces.append(("gap", f"[… {left_out:,} characters …]"))
        if left <= 0:
            break
    return tuple(pieces)


def _outputs(chosen: Iterable[_Chosen]) -> dict[tuple[str, str], str]:
    """Outputs of the chosen samples, by run and id."""
    of_run: dict[str, tuple[ScoredRun, set[str]]] = {}
    for one in chosen:
        of_run.setdefault(one.run.name, (one.run, set()))[1].add(one.row.id)
    outputs: dict[tuple[str, str], str] = {}
    for name, (run, ids) in of_run.items():
        predictions = read_predictions(run.path, Prediction)
        outputs |= {(name, id): predictions[id].text for id in ids}
    return outputs


def _answer(run: ScoredRun, id: str, score: float, words: Mapping[tuple[str, str], str]) -> Answer:
    text, left_out = wording.cut(words[run.name, id], _LONGEST_OUTPUT)
    return Answer(wording.name(run.label), TYPESET.number(score, 2), text, left_out)


def _sample(number: int, one: _Chosen, row: JsonObject | None, answers: Sequence[Answer]) -> Sample:
    facts = [f"model {wording.name(one.run.model)}", f"attention {wording.name(one.run.label)}",
             f"length {label(one.row.length)}"]  # fmt: skip
    if not math.isnan(one.row.depth):
        facts.append(f"evidence at depth {one.row.depth:.2f}")
    if not one.row.parsed:
        facts.append("no answer found")
    if one.row.truncated:
        facts.append("cut off")
    return Sample(
        title=f"{number}. {one.row.task}, sample {one.row.index}",
        facts=tuple(facts),
        prompt=None if row is None else _excerpt(row),
        gold=None if row is None else wording.cut(row["answer"], _LONGEST_GOLD)[0],
        answers=tuple(answers),
    )
