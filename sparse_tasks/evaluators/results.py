"""Scores of a run: from its predictions to ``scores.parquet`` and ``result.json``."""

from __future__ import annotations

import io
import math
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as dataclass_replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import UNSET
from msgspec.structs import replace

from sparse_tasks.attention.attention import DENSE
from sparse_tasks.core.beginning import in_tags
from sparse_tasks.core.errors import DataError, UsageError, unreadable
from sparse_tasks.core.files import write_whole
from sparse_tasks.core.json import to_json
from sparse_tasks.core.paths import to_path
from sparse_tasks.core.records import Phase, Record, to_builtins
from sparse_tasks.core.sample import Evidence, Turn
from sparse_tasks.evaluators.ability import Place, config_means, dense_means, unable
from sparse_tasks.evaluators.answers import How
from sparse_tasks.evaluators.compare import compare, recorded
from sparse_tasks.evaluators.dataset import Dataset, Selection, open_dataset
from sparse_tasks.evaluators.forms import RULES
from sparse_tasks.evaluators.records import (
    Answered,
    AverageResult,
    Comparison,
    ConfigResult,
    DatasetRecord,
    Later,
    Outcome,
    Prediction,
    PublicSettings,
    Result,
    RunSettings,
    ScoredSample,
    TurnOutput,
    TurnResult,
)
from sparse_tasks.evaluators.runs import (
    COMPARISON,
    PREDICTIONS,
    RESULT,
    SCORES,
    SETTINGS,
    Run,
    checked,
    difference,
    incomplete,
    read_predictions,
    read_record,
    read_settings,
)
from sparse_tasks.evaluators.scoring import score
from sparse_tasks.evaluators.statistics import Interval, difference_interval, macro, mean_interval, sign_flip_p_value
from sparse_tasks.evaluators.thinking import NO_PROMPT, Thinking

SCORES_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("task", pa.string()),
        ("index", pa.int64()),
        ("length", pa.int64()),
        ("metric", pa.string()),
        ("score", pa.float64()),
        ("extracted", pa.string()),
        ("parsed", pa.bool_()),
        ("how", pa.string()),
        ("finish_reason", pa.string()),
        # Mean depth of the evidence's spans, and distance from the first to the last; in [0, 1].
        ("depth", pa.float64()),
        ("depth_spread", pa.float64()),
        ("input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        # Measured; null where unknown.
        ("prefill_sparsity", pa.float64()),
        ("decode_sparsity", pa.float64()),
        ("kv_bytes_per_step", pa.float64()),
        ("rules", pa.list_(pa.string())),
        ("thinking_tokens", pa.int64()),
        ("answer_tokens", pa.int64()),
        ("cut_thinking", pa.bool_()),
        # The score and level of each question, for samples with several; else null.
        ("turns", pa.list_(pa.float64())),
        ("levels", pa.list_(pa.string())),
    ]
)
_NOT_IN_OLDER: Final = ("rules", "thinking_tokens", "answer_tokens", "cut_thinking", "turns", "levels")
"""Columns that older runs lack."""

_MAY_BE_NULL = (
    *("extracted", "how", "finish_reason", "depth", "depth_spread", "input_tokens", "output_tokens"),
    *("prefill_sparsity", "decode_sparsity", "kv_bytes_per_step"),
    *_NOT_IN_OLDER,
)


class Gold(Record, frozen=True, kw_only=True):
    """The columns of a sample that scoring needs."""

    id: str
    task: str
    index: int
    length: int
    metric: str
    answers: list[str]
    answer_prefix: str
    evidence: list[Evidence]
    question: str = ""
    turns: list[Turn] = msgspec.field(default_factory=list)


def score_run(run: Run, data: Dataset | str | None = None, scored: Callable[[], None] = lambda: None) -> Result:
    """Score a complete run: writes ``scores.parquet`` and ``result.json``, and returns the latter.

    Args:
        run: The run, locked.
        data: The data set, or its present location; None for the location recorded in the run.
        scored: Called for each prediction.

    Raises:
        UsageError: The data set is missing, or is not the run's.
        DataError: The run is incomplete, or has predictions for other samples.
    """
    settings = read_settings(run.path)
    recorded = settings.dataset
    dataset = _dataset(data, recorded)
    selection = dataset.select(recorded.tasks, recorded.lengths, recorded.limit)
    run.repair()
    run.put_in_order([row["id"] for row in dataset.rows(selection, ["id"])])
    configs: list[ConfigResult] = []
    tables: list[pa.Table] = []
    opened = Opened(dataset.begins_answer, settings.begins_answer, settings.thoughts)
    pairs = zip(dataset.samples(selection, Gold), run.predictions(), strict=True)
    # By group, so that only the samples of one task and length are in memory.
    for _, group in groupby(pairs, lambda pair: (pair[0].length, pair[0].task)):
        rows, predictions = [], []
        for gold, prediction in group:
            rows.append(scored_sample(gold, prediction, opened))
            predictions.append(prediction)
            scored()
        configs.append(config_result(rows, predictions))
        tables.append(scores_table(rows))
    result = checked(run_result(settings, selection, configs), RESULT)
    sink = io.BytesIO()
    pq.write_table(pa.concat_tables(tables).combine_chunks(), sink, compression="zstd")
    write_whole(run.path / SCORES, sink.getvalue())
    write_whole(run.path / RESULT, to_json(result))
    return result


@dataclass(frozen=True, slots=True)
class ScoredFiles:
    """The content of a run's folder: settings, result, and a row of ``scores.parquet`` per sample."""

    settings: RunSettings
    result: Result
    scores: pa.Table

    @property
    def outcomes(self) -> list[Outcome]:
        """The columns that a comparison needs."""
        return [Outcome(**row) for row in self.scores.select(Outcome.__struct_fields__).to_pylist()]


def read_scored(folder: Path, columns: Sequence[str] | None = None, *, partial: bool = False) -> ScoredFiles:
    """Read a scored run: the one place that checks that a run is complete, with every sample answered and scored.

    Args:
        folder: The run.
        columns: Columns of its scores to read; None for all.
        partial: Take the samples that have a prediction where others have none; ``Result.missing`` counts those.

    Raises:
        UsageError: It is not a scored run.
        DataError: It is not whole, and not ``partial``; the message has the command that completes it. Or a file
            cannot be read.
    """
    if not os.path.isfile(folder / SETTINGS):
        read_result(folder)  # raises if it is not a run
    settings = read_settings(folder)
    ids, samples = read_predictions(folder, Answered).keys(), settings.dataset.samples
    if missing := max(0, samples - len(ids)):
        if not partial:
            remedy = "compare, analyze, report and export take what is there with --partial"
            raise DataError(f"{incomplete(folder, missing, samples, settings)}; {remedy}")
        return _partial(folder, settings, missing, columns)
    result, scores = read_result(folder), read_scores_table(folder, columns)
    if ids != set(scores["id"].to_pylist()):
        again = f"run sparse-tasks score {shlex.quote(str(folder))}"
        raise DataError(f"{folder}: its scores do not match its predictions; {again}")
    return ScoredFiles(settings, result, scores)


def _partial(folder: Path, settings: RunSettings, missing: int, columns: Sequence[str] | None) -> ScoredFiles:
    """The samples of a run that have a prediction, scored here if necessary."""
    predictions = read_predictions(folder, Prediction)
    if not predictions:
        raise DataError(f"{incomplete(folder, missing, missing, settings)}; there is nothing to use")
    known = {row.id: row for row in read_scores(folder)} if os.path.isfile(folder / SCORES) else {}
    if predictions.keys() <= known.keys():
        rows = [row for row in known.values() if row.id in predictions]
    else:
        dataset, recorded = _dataset(None, settings.dataset), settings.dataset
        golds = dataset.samples(dataset.select(recorded.tasks, recorded.lengths, recorded.limit), Gold)
        opened = Opened(dataset.begins_answer, settings.begins_answer, settings.thoughts)
        rows = [scored_sample(gold, predictions[gold.id], opened) for gold in golds if gold.id in predictions]
    if len(rows) != len(predictions):
        raise DataError(f"{folder / PREDICTIONS} holds a prediction that is not a sample of the run's selection")
    groups: dict[Place, list[ScoredSample]] = {}
    for row in rows:
        groups.setdefault((row.length, row.task), []).append(row)
    configs = [config_result(group, [predictions[row.id] for row in group]) for group in groups.values()]
    lengths = tuple(dict.fromkeys(length for length, _ in groups))
    result = run_result(settings, Selection(tuple(settings.dataset.tasks), lengths, None), configs)
    table = scores_table(rows)
    return ScoredFiles(settings, replace(result, missing=missing), table if columns is None else table.select(columns))


def _dataset(data: Dataset | str | None, recorded: DatasetRecord) -> Dataset:
    """The named data set, or else the run's.

    Raises:
        UsageError: It is missing, or is not the run's.
    """
    dataset = data if isinstance(data, Dataset) else _open(data, recorded)
    if not dataset.is_called(recorded.sha256):
        raise UsageError("data", dataset.name, "is not the data set of the run; name that with --data")
    return dataset


def _open(data: str | None, recorded: DatasetRecord) -> Dataset:
    """The named data set, or else the run's, on the Hub at the same commit."""
    if data is not None:
        return open_dataset(data)
    try:
        return open_dataset(recorded.place)
    except UsageError as error:
        remedy = "held the run's data set and does not now; name its folder with --data"
        raise UsageError("data", recorded.place, remedy) from error


def read_result(folder: Path) -> Result:
    """Read the ``result.json`` of a run.

    Raises:
        UsageError: It is not a scored run.
        DataError: The file cannot be read, or says something else.
    """
    if not os.path.isfile(folder / RESULT):  # Path.is_file raises for a path that is too long
        raise UsageError("run", str(folder), f"holds no {RESULT}; name a run that evaluate or score has finished")
    return read_record(folder / RESULT, Result)


def prompting(settings: PublicSettings | Result) -> str:
    """The kind of a run's prompts; runs of two kinds are never ranked together.

    ``query-aware``: the question also precedes the context; ``question after``: it only follows it; ``query-agnostic``:
    it follows it, and evicting methods choose before they see it.
    """
    begun = settings.begin_answer is True if isinstance(settings, Result) else settings.begins_answer
    return awareness(settings.query_aware, settings.compress == "context") + (", answers begun" if begun else "")


def awareness(query_aware: bool, context: bool) -> str:
    """Kind of a run's prompts by when the question is seen: see ``prompting``."""
    return "query-aware" if query_aware else "query-agnostic" if context else "question after"


def read_scores(folder: Path) -> list[ScoredSample]:
    """Read the ``scores.parquet`` of a run.

    Raises:
        DataError: The file cannot be read, or has other columns.
    """
    return [ScoredSample(**row) for row in read_scores_table(folder).to_pylist()]


def read_outcomes(folder: Path) -> list[Outcome]:
    """Read the columns of a run's ``scores.parquet`` that a comparison needs.

    Raises:
        DataError: The file cannot be read, or has other columns.
    """
    return [Outcome(**row) for row in read_scores_table(folder, Outcome.__struct_fields__).to_pylist()]


def compare_runs(
    run_a: str | Path,
    run_b: str | Path,
    *,
    common: bool = False,
    level: float = 0.95,
    partial: bool = False,
    ladder: bool = False,
) -> Comparison:
    """Compare two scored runs over the same data set, sample by sample; differences are B minus A.

    If B is A with ``begin_answer``, they are the share of A's loss that is due to the form of the answer
    (``format_share``).

    Args:
        run_a: Folder of the first run, usually the dense baseline.
        run_b: Folder of the second run.
        common: Compare the samples that both runs have, and leave out the others.
        level: Confidence level of the intervals, in (0, 1).
        partial: Whether to use the samples that both runs have answered if a run is incomplete.
        ladder: Compare the rungs of ladders, each as a task of its own (see ``ladder.by_rung``), and nothing else.

    Raises:
        DataError: A run is not whole, and not ``partial``.
        UsageError: A folder is not a scored run, the runs answered different samples, or one alone begins its answers
            and they differ in more; or none of their tasks is a ladder.
    """
    from sparse_tasks.evaluators.ladder import COLUMNS, by_rung, no_ladder

    a, b = to_path(run_a), to_path(run_b)
    columns = COLUMNS if ladder else Outcome.__struct_fields__
    files = [read_scored(folder, columns, partial=partial) for folder in (a, b)]
    results = files[0].result, files[1].result
    if results[0].query_aware != results[1].query_aware:
        kinds = [awareness(result.query_aware, result.compress == "context") for result in results]
        raise UsageError("runs", str(b), f"is {kinds[1]} and {a} is {kinds[0]}; compare runs of one kind")
    if results[0].compress != results[1].compress and DENSE not in {one.attention.method for one in results}:
        _check_compress_alone(a, b)
    format_share = results[0].begin_answer != results[1].begin_answer
    if format_share:
        _check_format_alone(a, b)
    outcomes = [by_rung(one.scores) if ladder else one.outcomes for one in files]
    if ladder and not outcomes[0]:
        raise no_ladder(a)
    by_dense = [dense_means(one) for one, result in zip(outcomes, results, strict=True) if _is_dense(result)]
    comparison = compare(
        *outcomes,
        dataset_a=results[0].dataset_sha256,
        dataset_b=results[1].dataset_sha256,
        common=common or partial,
        level=level,
        unable=unable(*(by_dense if ladder else _abilities(a, b, *results))),
    )
    if ladder:
        comparison = replace(comparison, averages=[])  # a question and its parts have no meaningful average
    missing = {"missing_a": results[0].missing, "missing_b": results[1].missing}
    return replace(comparison, format_share=True if format_share else UNSET, **missing)


def _is_dense(result: Result) -> bool:
    return result.attention.method == DENSE


def _abilities(a: Path, b: Path, result_a: Result, result_b: Result) -> Iterator[Mapping[Place, float]]:
    """Dense scores of each run, or else, if the models differ, the mean scores of a run."""
    known = [dense_scores(folder, result) for folder, result in ((a, result_a), (b, result_b))]
    several = any(known) and result_a.model != result_b.model
    for scores, result in zip(known, (result_a, result_b), strict=True):
        yield scores or (config_means(result) if several else {})


def dense_scores(folder: Path, result: Result) -> dict[Place, float]:
    """Mean dense scores of a run's model: of the run, or of the run that its sweep compared it with; {} if unknown."""
    if _is_dense(result):
        return config_means(result)
    if not os.path.isfile(folder / COMPARISON):
        return {}
    return {(row.length, row.task): row.mean_a for row in read_record(folder / COMPARISON, Comparison).rows}


def _check_format_alone(a: Path, b: Path) -> None:
    """Check that run b begins its answers and otherwise equals run a.

    Raises:
        UsageError: It is not.
    """
    plain, begun = (read_record(folder / SETTINGS, RunSettings) for folder in (a, b))
    if plain.begins_answer:
        raise UsageError("runs", str(a), f"begins its answers and {b} does not; name the run without first")
    prompt = replace(begun.prompt, begin_answer=plain.prompt.begin_answer, as_generated=plain.prompt.as_generated)
    # Replayed outputs of one model are in two files with different hashes.
    model = replace(begun.model, sha256=plain.model.sha256)
    # A template that opens a thinking block does not if the answer is begun.
    thinking = begun.thinking and plain.thinking and replace(begun.thinking, opened=plain.thinking.opened)
    alike = replace(begun, prompt=prompt, dataset=plain.dataset, model=model, thinking=thinking)
    if (found := difference(plain, alike)) is not None:
        raise UsageError(
            "runs",
            str(b),
            f"begins its answers, {a} does not, and they differ in other settings ({found}); "
            "compare runs that differ in one",
        )


def _check_compress_alone(a: Path, b: Path) -> None:
    """Check that two sparse runs, only one of which compressed contexts, differ in nothing else.

    Raises:
        UsageError: They do.
    """
    one, other = (read_record(folder / SETTINGS, RunSettings) for folder in (a, b))
    alike = replace(other, compress=one.compress, dataset=one.dataset)
    if (found := difference(one, alike)) is not None:
        raise UsageError(
            "runs",
            str(b),
            f"compresses another part of prompts than {a}, and they differ in other settings ({found}); "
            "compare runs that differ in one",
        )


def scores_table(rows: Sequence[ScoredSample]) -> pa.Table:
    """Rows as stored in ``scores.parquet``."""
    return pa.Table.from_pylist([to_builtins(row) for row in rows], schema=SCORES_SCHEMA)


def read_scores_table(folder: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the ``scores.parquet`` of a run as a table.

    Args:
        folder: The run.
        columns: Columns to read; None for all.

    Raises:
        DataError: The file cannot be read, or has other columns.
    """
    path = folder / SCORES
    try:
        schema = pq.read_schema(path)
        added = [name for name in _NOT_IN_OLDER if name not in schema.names]
        if not schema.equals(pa.schema([field for field in SCORES_SCHEMA if field.name not in added])):
            raise DataError(f"{path} has other columns than the scores of a run; run sparse-tasks score again")
        names = SCORES_SCHEMA.names if columns is None else columns
        table = pq.read_table(path, columns=[name for name in names if name not in added])
        table.validate(full=True)
        for name in added:
            if name in names:
                field = SCORES_SCHEMA.field(name)
                table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        again = f"run sparse-tasks score {shlex.quote(str(folder))}"
        raise DataError(f"{unreadable(path, error, 'Parquet')}; {again}") from error
    for name in table.column_names:
        if table[name].null_count and name not in _MAY_BE_NULL:
            raise DataError(f"{path} has a row without {name}")
    if "score" in table.column_names and not all(0 <= score <= 1 for score in table["score"].to_pylist()):
        raise DataError(f"{path} has a score that is not in [0, 1]; run sparse-tasks score again")
    return table


@dataclass(frozen=True, slots=True)
class Opened:
    """Whether prompts end inside the answer: as a data set was made, and as a run got them; or inside a thought."""

    made: bool
    run: bool
    thinking: Thinking = NO_PROMPT


def scored_sample(gold: Gold, prediction: Prediction, opened: Opened) -> ScoredSample:
    """A row of ``scores.parquet``: the score of a prediction for a sample, of several questions their mean.

    Raises:
        DataError: The prediction does not answer as many questions as the sample asks.
    """
    answers = [] if prediction.turns is UNSET else prediction.turns
    if len(answers) != len(gold.turns):
        asks = max(1, len(gold.turns))
        raise DataError(f"{gold.id} asks {asks} questions, and its prediction answers {max(1, len(answers))}")
    if not gold.turns:
        return _scored(gold, prediction, opened)
    rows = []
    for turn, answer in zip(gold.turns, answers, strict=True):
        parts = {name: getattr(turn, name) for name in ("metric", "answers", "question", "evidence")}
        fields = {name: getattr(answer, name) for name in TurnOutput.__struct_fields__}
        rows.append(_scored(replace(gold, **parts), replace(prediction, **fields), opened))
    scores = [row.score for row in rows]
    metrics = {row.metric for row in rows}
    return replace(
        _scored(gold, prediction, opened),
        metric=metrics.pop() if len(metrics) == 1 else "mixed",
        score=math.fsum(scores) / len(scores),
        extracted="\n".join(row.extracted or "" for row in rows),
        parsed=all(row.parsed for row in rows),
        how=rows[0].how,
        rules=list(dict.fromkeys(rule for row in rows for rule in row.rules or ())),
        cut_thinking=any(row.cut_thinking for row in rows),
        turns=scores,
        levels=[turn.level for turn in gold.turns],
    )


def _scored(gold: Gold, prediction: Prediction, opened: Opened) -> ScoredSample:
    """The row of one question."""
    begun = opened.run and in_tags(gold.answer_prefix)
    # Other beginnings of the answer count as the model's output.
    before = "" if begun or opened.made else gold.answer_prefix
    # A begun answer is not thought, whatever the template opens.
    thinking = dataclass_replace(opened.thinking, opened=None) if begun else opened.thinking
    verdict = score(gold.metric, prediction.text, gold.answers, begun, thinking, before, gold.question)
    cut = prediction.finish_reason != "stop" and not verdict.parsed and thinking.unfinished(prediction.text)
    thought = None if prediction.thinking_tokens is UNSET else prediction.thinking_tokens
    known = thought is not None and prediction.output_tokens is not None
    depths = [stretch.depth for stretch in gold.evidence]
    sparsity = prediction.sparsity or {}
    return ScoredSample(
        id=gold.id,
        task=gold.task,
        index=gold.index,
        length=gold.length,
        metric=gold.metric,
        score=verdict.value,
        extracted=verdict.extracted,
        parsed=verdict.parsed,
        how=verdict.how,
        rules=list(verdict.rules),
        finish_reason=prediction.finish_reason,
        depth=math.fsum(depths) / len(depths) if depths else None,
        depth_spread=max(depths) - min(depths) if depths else None,
        input_tokens=prediction.input_tokens,
        output_tokens=prediction.output_tokens,
        prefill_sparsity=sparsity.get("prefill"),
        decode_sparsity=sparsity.get("decode"),
        kv_bytes_per_step=prediction.kv_bytes_per_step,
        thinking_tokens=thought,
        answer_tokens=(prediction.output_tokens or 0) - (thought or 0) if known else None,
        cut_thinking=cut,
    )


def run_result(settings: PublicSettings, selection: Selection, configs: list[ConfigResult]) -> Result:
    """Content of ``result.json``.

    Args:
        settings: Settings of the run.
        selection: The samples that it answered.
        configs: A ``config_result`` for each task and length.
    """
    return Result(
        format="sparse-tasks-result",
        schema_version="1.0",
        dataset_sha256=settings.dataset.sha256,
        model=settings.model,
        attention=settings.attention,
        query_aware=settings.query_aware,
        compress=settings.compress,
        begin_answer=settings.prompt.begin_answer,
        configs=configs,
        averages=[average([config for config in configs if config.length == length]) for length in selection.lengths],
        average_is="mean of the tasks' means, equally weighted; interval by MOVER (Zou and Donner 2008)",
    )


def config_result(rows: Sequence[ScoredSample], predictions: Sequence[Prediction]) -> ConfigResult:
    """Result of a task at a length.

    Args:
        rows: Scores, not empty.
        predictions: The predictions that were scored, in the same order.
    """
    scores = [row.score for row in rows]
    interval = mean_interval(scores)
    return ConfigResult(
        task=rows[0].task,
        length=rows[0].length,
        # A task may have several kinds of questions with different metrics, stored per sample in scores.parquet.
        metric=rows[0].metric if len({row.metric for row in rows}) == 1 else "mixed",
        n=len(rows),
        mean=math.fsum(scores) / len(scores),
        low=interval.low,
        high=interval.high,
        interval=interval.method,
        unparsed=_share([not row.parsed for row in rows]),
        ambiguous=_share([not row.parsed and bool(row.rules) for row in rows]),
        fallback=_share([row.how in ("open_tag", "boxed") for row in rows]),
        read_by=_read_by(rows),
        truncated=_share([row.finish_reason == "length" for row in rows]),
        input_tokens=_mean([prediction.input_tokens for prediction in predictions]),
        output_tokens=_mean([prediction.output_tokens for prediction in predictions]),
        thinking_tokens=_mean([row.thinking_tokens for row in rows]),
        answer_tokens=_mean([row.answer_tokens for row in rows]),
        cut_thinking=_share([row.cut_thinking is True for row in rows]),
        sparsity=_by_phase([prediction.sparsity for prediction in predictions]),
        sparsity_spread=_by_phase([prediction.sparsity_spread for prediction in predictions]),
        kv_bytes_per_step=_mean([prediction.kv_bytes_per_step for prediction in predictions]),
        **_by_turn(rows),
    )


def _by_turn(rows: Sequence[ScoredSample]) -> dict[str, Any]:
    """Results by question, where samples ask several, and whether later ones score less."""
    several = [row.turns for row in rows if row.turns]
    if len(several) < len(rows):
        return {}
    levels, turns = rows[0].levels or [], list[TurnResult]()
    for number in range(min(map(len, several))):
        scores = [row[number] for row in several]
        interval = mean_interval(scores)
        turns.append(
            TurnResult(
                turn=number + 1,
                level=levels[number],
                n=len(scores),
                mean=math.fsum(scores) / len(scores),
                low=interval.low,
                high=interval.high,
            )
        )
    if any(levels):
        return {"turns": turns}
    falls = [_later(row) for row in several]
    later = Later(
        difference=math.fsum(falls) / len(falls),
        interval=recorded(difference_interval(falls)),
        p_value=sign_flip_p_value(falls),
    )
    return {"turns": turns, "later": later}


def _later(scores: Sequence[float]) -> float:
    """The mean of the later half of scores minus that of the earlier half."""
    half = len(scores) // 2
    return (math.fsum(scores[-half:]) - math.fsum(scores[:half])) / half


def average(configs: Sequence[ConfigResult]) -> AverageResult:
    """The mean over tasks of one length, each with the same weight."""
    mean, interval = macro([(config.mean, Interval(config.low, config.high, "score")) for config in configs])
    return AverageResult(
        length=configs[0].length,
        tasks=len(configs),
        n=sum(config.n for config in configs),
        mean=mean,
        low=interval.low,
        high=interval.high,
        interval=interval.method,
    )


def _read_by(rows: Sequence[ScoredSample]) -> dict[str, float]:
    """Shares of the outputs that were read at each place and by each rule."""
    times = Counter(name for row in rows if row.how for name in (row.how, *(row.rules or ())))
    return {name: times[name] / len(rows) for name in (*get_args(How), *RULES) if times[name]}


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean, if every sample has a value."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _by_phase(values: Sequence[dict[Phase, float] | None]) -> dict[Phase, float] | None:
    """Means over the samples, by phase, if every sample was measured."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    phases = sorted(set.intersection(*(set(value) for value in known)))
    return {phase: sum(value[phase] for value in known) / len(known) for phase in phases} or None


def mean_measure(
    configs: Sequence[ConfigResult], measure: Literal["sparsity", "sparsity_spread"], phase: Phase
) -> float | None:
    """A measurement of a phase, the mean over all samples; None unless every configuration has it."""
    total = 0.0
    for config in configs:
        if (value := (getattr(config, measure) or {}).get(phase)) is None:
            return None
        total += value * config.n
    return total / sum(config.n for config in configs) if configs else None
