"""Typed records of runs: settings, predictions, results, comparisons, submissions, verdicts."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from msgspec import UNSET, Meta, UnsetType

from sparse_tasks.attention.attention import Attention
from sparse_tasks.core.hub import split_hub_id
from sparse_tasks.core.records import (
    Count,
    Description,
    Difference,
    JsonObject,
    Measure,
    Name,
    Natural,
    Phases,
    Record,
    Sha256,
    Share,
    unique,
)
from sparse_tasks.core.shape import Shape
from sparse_tasks.evaluators.thinking import ANY, FAMILIES, NO_PROMPT, Thinking

SampleId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=500)]
Timestamp: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$(?!\n)")]
Level: TypeAlias = Annotated[float, Meta(gt=0, lt=1)]
Probability: TypeAlias = Annotated[float, Meta(gt=0, le=1)]
_TAG = rf"{'|'.join(FAMILIES)}|[^\s]+ [^\s]+"
Tag: TypeAlias = Annotated[str, Meta(max_length=200, pattern=rf"^(?:{_TAG})$(?!\n)")]
OpenedTag: TypeAlias = Annotated[str, Meta(max_length=200, pattern=rf"^(?:{ANY}|{_TAG})$(?!\n)")]
Compress: TypeAlias = Literal["prompt", "context"]
COMPRESS: Final = ("prompt", "context")
"""What methods that evict may have read before they choose what they keep."""
UNIQUE = {"uniqueItems": True}


class DatasetRecord(Record, frozen=True, kw_only=True):
    """The samples that a run answers.

    Attributes:
        name: Folder or Hub id, as the user named it.
        revision: Commit on the Hub; None for a folder.
        sha256: Hash of the data set's samples; of its files, where an older version wrote them.
        fingerprint: The manifest's.
        tasks: Names of tasks.
        lengths: Lengths in tokens.
        limit: Most samples of each task at each length; None for all.
        samples: Samples altogether.
    """

    name: str
    revision: str | None
    sha256: Sha256
    fingerprint: Sha256
    tasks: Annotated[list[Name], Meta(min_length=1, extra_json_schema=UNIQUE)]
    lengths: Annotated[list[Count], Meta(min_length=1, extra_json_schema=UNIQUE)]
    limit: Count | None
    samples: Count

    @property
    def place(self) -> str:
        """Where the run found it; on the Hub, at the same commit."""
        return self.name if self.revision is None else f"{split_hub_id(self.name)[0]}@{self.revision}"

    def __post_init__(self) -> None:
        unique(tasks=self.tasks, lengths=self.lengths)


class ModelRecord(Record, frozen=True, kw_only=True):
    """A model: its name, and hashes of its configuration and weights where they are known."""

    name: str
    revision: str | None
    config_sha256: Sha256 | None
    sha256: Sha256 | None
    shape: Shape | None


class EngineRecord(Record, frozen=True, kw_only=True):
    """An engine with the user's arguments, and what it reported once it had started."""

    name: str
    version: str | None
    arguments: JsonObject
    details: JsonObject


class SamplingRecord(Record, frozen=True, kw_only=True):
    """Options of sampling; None where the engine ignores them."""

    temperature: Measure | None
    seed: Natural | None
    max_new_tokens: Count | None


class PromptRecord(Record, frozen=True, kw_only=True):
    """Rendering of the prompts.

    Attributes:
        rendered_by: This project, or the engine.
        tokenizer_sha256: Hash of the tokenizer; None where the engine's is not known.
        chat_template_sha256: Hash of the chat template; None for bare prompts, and where it is not known.
        begin_answer: Whether the prompts end inside the answer; left out where they do not.
        as_generated: Whether they have the tokens that the data set was made with.
    """

    rendered_by: Literal["sparse-tasks", "engine"]
    tokenizer_sha256: Sha256 | None
    chat_template_sha256: Sha256 | None
    begin_answer: bool | UnsetType = UNSET
    as_generated: bool


class ThinkingRecord(Record, frozen=True, kw_only=True):
    """Blocks in which the model thinks; their content is not an answer.

    Attributes:
        tags: Names of families of marks (see ``thinking.FAMILIES``), or two marks each with a blank between.
        opened: The one of them that the rendered prompt opens, or ``any``; None where it opens none.
        budget: Tokens of thought on top of the answer budget; None where the answer budget is all.
    """

    tags: Annotated[list[Tag], Meta(min_length=1, max_length=100)]
    opened: OpenedTag | None
    budget: Count | None


class HardwareRecord(Record, frozen=True, kw_only=True):
    """The machine."""

    cpu: str
    cores: Count
    memory_gib: Natural | None
    gpus: list[str]


class EnvironmentRecord(Record, frozen=True, kw_only=True):
    """Software and machine of a run."""

    sparse_tasks: str
    python: str
    platform: str
    packages: dict[str, str]
    hardware: HardwareRecord


class PublicSettings(Record, frozen=True, kw_only=True):
    """Settings of a run that may leave its machine: ``run.json`` without the command line.

    Attributes:
        query_aware: Whether the question stands before the context, too.
        compress: What methods that evict read before they choose what they keep, if not the whole prompt: only its
            context, before the question.
        thinking: Blocks in which the model thinks; left out in older files, of which nothing is known.
    """

    format: Literal["sparse-tasks-run"]
    schema_version: Literal["1.0"]
    started: Timestamp
    dataset: DatasetRecord
    model: ModelRecord
    engine: EngineRecord
    attention: Attention
    query_aware: bool
    compress: Literal["context"] | UnsetType = UNSET
    sampling: SamplingRecord
    prompt: PromptRecord
    thinking: ThinkingRecord | UnsetType = UNSET
    environment: EnvironmentRecord
    other_environments: list[EnvironmentRecord]

    @property
    def begins_answer(self) -> bool:
        """Whether prompts end inside the answer."""
        return self.prompt.begin_answer is True

    @property
    def thoughts(self) -> Thinking:
        """Blocks in which the model thinks."""
        known = self.thinking
        return NO_PROMPT if known is UNSET else Thinking(tuple(known.tags), known.opened, known.budget)

    @property
    def compresses(self) -> Compress:
        """What methods that evict read before they choose what they keep."""
        return "prompt" if self.compress is UNSET else "context"


class RunSettings(PublicSettings, frozen=True, kw_only=True):
    """``run.json``: data set, model, engine, attention and everything else that a run was started with.

    Attributes:
        made_from: What the data set was generated from and with; left out in older files.
    """

    command_line: list[str]
    made_from: Description | UnsetType = UNSET


class TurnOutput(Record, frozen=True, kw_only=True):
    """The answer to one of several questions; as of a ``Prediction``."""

    text: str
    finish_reason: str | None
    input_tokens: Natural | None
    output_tokens: Natural | None
    thinking_tokens: Natural | None
    sparsity: Phases | None


Turns: TypeAlias = Annotated[list[TurnOutput], Meta(min_length=2, max_length=1000)]


class Prediction(Record, frozen=True, kw_only=True):
    """A line of ``predictions.jsonl``: an answer and its measurements; None where unknown.

    Of a sample that asks several questions: the answers in their order with a blank line between, the first question's
    ``input_tokens``, ``seconds_to_first_token`` and sparsity of prefill, sums of ``seconds`` and of tokens written, and
    means of the other measurements; ``finish_reason`` is ``length`` where one answer's is.

    Attributes:
        id: Id of the sample.
        task: Its task.
        index: Its number within task and length, from 0.
        length: Its target length in tokens.
        text: The model's output, special tokens left out.
        finish_reason: ``stop`` (the model ended) or ``length`` (the budget did).
        input_tokens: Tokens of the prompt as the model got it.
        output_tokens: Tokens of the output.
        thinking_tokens: Those of thought; left out in older files.
        seconds_to_first_token: From the moment the engine accepted the request.
        seconds: Until the last token.
        sparsity: Measured share of query-key interactions left out, by phase, averaged over layers and heads.
        sparsity_spread: Its standard deviation over layers and heads, by phase.
        kv_bytes_per_step: Bytes of keys and values that a decoding step read, all layers together, on average.
        turns: The answer to each question, where a sample asks several.
    """

    id: SampleId
    task: Name
    index: Natural
    length: Count
    text: str
    finish_reason: str | None
    input_tokens: Natural | None
    output_tokens: Natural | None
    thinking_tokens: Natural | UnsetType | None = UNSET
    seconds_to_first_token: Measure | None
    seconds: Measure | None
    sparsity: Phases | None
    sparsity_spread: Phases | None
    kv_bytes_per_step: Measure | None
    turns: Turns | UnsetType = UNSET


class Answered(Record, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """The sample of a ``Prediction``."""

    id: SampleId


class SubmittedPrediction(Record, frozen=True, kw_only=True):
    """A line of a submission's predictions: a ``Prediction`` without its timings."""

    id: SampleId
    task: Name
    index: Natural
    length: Count
    text: str
    finish_reason: str | None
    input_tokens: Natural | None
    output_tokens: Natural | None
    thinking_tokens: Natural | UnsetType | None = UNSET
    sparsity: Phases | None
    sparsity_spread: Phases | None
    kv_bytes_per_step: Measure | None
    turns: Turns | UnsetType = UNSET


class Replayed(Record, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """A line of outputs made elsewhere; only ``id`` and ``text`` are needed."""

    id: SampleId
    text: str
    finish_reason: str | UnsetType | None = UNSET
    input_tokens: Natural | UnsetType | None = UNSET
    output_tokens: Natural | UnsetType | None = UNSET
    thinking_tokens: Natural | UnsetType | None = UNSET
    seconds_to_first_token: Measure | UnsetType | None = UNSET
    seconds: Measure | UnsetType | None = UNSET
    sparsity: Phases | UnsetType | None = UNSET


class Outcome(Record, frozen=True, kw_only=True):
    """Score of a sample: the columns that a comparison needs."""

    id: str
    task: str
    length: int
    score: float
    parsed: bool


class ScoredSample(Outcome, frozen=True, kw_only=True):
    """A row of ``scores.parquet``.

    Attributes:
        metric: Name of the metric.
        extracted: The answer that was compared; None where none was extracted.
        how: Place of the answer (see ``answers.Extraction``).
        rules: Names of the rules that read it (see ``forms``); None in older files, as are the next three.
        thinking_tokens: Tokens of thought, marks included; None where unknown.
        answer_tokens: The other tokens of the output; None where unknown.
        cut_thinking: Whether the output was cut off while the model was thinking.
        depth: Mean depth of the evidence, in [0, 1].
        depth_spread: From the first to the last stretch of evidence, in [0, 1].
        prefill_sparsity: Measured; None where nothing was.
        decode_sparsity: The same of decoding.
        turns: Score of each question, where a sample asks several: ``score`` is their mean, ``parsed`` says whether all
            had an answer, and ``extracted`` has a line for each. None where it asks one, as ``levels`` is.
        levels: What each of them asks for, where they are levels of one question.
    """

    index: int
    metric: str
    extracted: str | None
    how: str | None
    finish_reason: str | None
    depth: float | None
    depth_spread: float | None
    input_tokens: int | None
    output_tokens: int | None
    prefill_sparsity: float | None
    decode_sparsity: float | None
    kv_bytes_per_step: float | None
    rules: list[str] | None = None
    thinking_tokens: int | None = None
    answer_tokens: int | None = None
    cut_thinking: bool | None = None
    turns: list[float] | None = None
    levels: list[str] | None = None


class DifferenceInterval(Record, frozen=True, kw_only=True):
    """Confidence interval of a difference of means."""

    low: Difference
    high: Difference
    method: Literal["bootstrap", "gains_losses", "mover"]


class TurnResult(Record, frozen=True, kw_only=True):
    """Score of one question of several, over the samples of a task at a length.

    Attributes:
        turn: Its number, from 1.
        level: What it asks for, where questions are levels of one; else empty.
        n: Samples.
    """

    turn: Count
    level: str
    n: Count
    mean: Share
    low: Share
    high: Share


class Later(Record, frozen=True, kw_only=True):
    """Whether later questions score less: paired within samples.

    Attributes:
        difference: Mean score of the later half of a sample's questions less that of the earlier half, over samples; of
            an odd number that in the middle is in neither.
        interval: Confidence interval of the difference, at 95%.
        p_value: Two-sided sign-flip test.
    """

    difference: Difference
    interval: DifferenceInterval
    p_value: Probability


class ConfigResult(Record, frozen=True, kw_only=True):
    """Score and measurements of a task at a length.

    Attributes:
        unparsed: Share of outputs without an answer; they score 0 and count.
        ambiguous: Share of outputs whose answer can be read in two ways; they are among the unparsed.
        fallback: Share of answers that were not between tags.
        read_by: Share of outputs whose answer was read at each place (``tag``, ``open_tag``, ``boxed``) and by each
            rule (see ``forms.RULES``), where it is not 0; left out in older files.
        thinking_tokens: Mean tokens of thought; None where unknown, left out in older files.
        answer_tokens: Mean tokens outside of thought; the same.
        cut_thinking: Share of outputs that were cut off while the model was thinking; left out in older files.
        turns: By question, where samples ask several; left out where they ask one.
        later: Whether later questions score less; left out where they are not alike, but levels of one.
    """

    task: Name
    length: Count
    metric: Name
    n: Count
    mean: Share
    low: Share
    high: Share
    interval: str
    unparsed: Share
    ambiguous: Share | UnsetType = UNSET
    fallback: Share
    read_by: dict[Name, Share] | UnsetType = UNSET
    truncated: Share
    input_tokens: Measure | None
    output_tokens: Measure | None
    thinking_tokens: Measure | UnsetType | None = UNSET
    answer_tokens: Measure | UnsetType | None = UNSET
    cut_thinking: Share | UnsetType = UNSET
    sparsity: Phases | None
    sparsity_spread: Phases | None
    kv_bytes_per_step: Measure | None
    turns: Annotated[list[TurnResult], Meta(min_length=2)] | UnsetType = UNSET
    later: Later | UnsetType = UNSET


class AverageResult(Record, frozen=True, kw_only=True):
    """Mean of the tasks' means at a length."""

    length: Count
    tasks: Count
    n: Count
    mean: Share
    low: Share
    high: Share
    interval: str


class Result(Record, frozen=True, kw_only=True):
    """``result.json``: scores of a run, by task and length.

    Attributes:
        query_aware: Whether the question stood before the context, too.
        compress: What methods that evict read before they chose; left out where it was the whole prompt.
        begin_answer: Whether prompts ended inside the answer; left out where they did not.
        missing: Samples without a prediction, which no number counts; left out of a run that is whole.
    """

    format: Literal["sparse-tasks-result"]
    schema_version: Literal["1.0"]
    dataset_sha256: Sha256
    model: ModelRecord
    attention: Attention
    query_aware: bool
    compress: Literal["context"] | UnsetType = UNSET
    begin_answer: bool | UnsetType = UNSET
    configs: Annotated[list[ConfigResult], Meta(min_length=1)]
    averages: Annotated[list[AverageResult], Meta(min_length=1)]
    average_is: str
    missing: Count | UnsetType = UNSET


class ServingVariance(Record, frozen=True, kw_only=True):
    """The share of the serving stack in a difference: batches, engines, machines.

    Attributes:
        changed: Share of samples whose score is not the same in all repeats.
        sd: Standard deviation of the difference, run to run.
        limit: The serving stack alone seldom makes a larger difference (see ``statistics.run_to_run``).
        within: Whether the difference is no larger than that.
    """

    changed: Share
    sd: Measure
    limit: Share
    within: bool


class ComparedTask(Record, frozen=True, kw_only=True):
    """A task at a length, in both runs.

    Attributes:
        length: Tokens of the prompts.
        task: Name of the task.
        n: Pairs.
        mean_a: Mean score of run a.
        mean_b: Mean score of run b.
        difference: Mean of b minus a.
        interval: Confidence interval of the difference.
        p_value: Two-sided sign-flip test.
        p_holm: The same, adjusted for the tasks of this length that the model can do; 1 where it cannot.
        smallest_detectable: The smallest difference that this many samples would probably detect.
        better: Samples that b scores higher on.
        worse: Samples that b scores lower on.
        equal: The others.
        unparsed_a: Outputs of a without an answer; they score 0 and count.
        unparsed_b: Outputs of b without an answer.
        unable: Whether the model cannot do the task, by its dense run (see ``ability``): the numbers are meaningless.
        serving: Serving variance of the difference; left out without repeats.
    """

    length: Count
    task: Name
    n: Count
    mean_a: Share
    mean_b: Share
    difference: Difference
    interval: DifferenceInterval
    p_value: Probability
    p_holm: Probability
    smallest_detectable: Probability
    better: Natural
    worse: Natural
    equal: Natural
    unparsed_a: Natural
    unparsed_b: Natural
    unable: bool
    serving: ServingVariance | UnsetType = UNSET


class ComparedAverage(Record, frozen=True, kw_only=True):
    """All tasks of a length that the model can do, equally weighted; interval by MOVER; ``serving`` as in a row."""

    length: Count
    tasks: Count
    n: Count
    mean_a: Share
    mean_b: Share
    difference: Difference
    interval: DifferenceInterval
    serving: ServingVariance | UnsetType = UNSET


class Comparison(Record, frozen=True, kw_only=True):
    """Run b against run a, pair by pair.

    Attributes:
        dataset_sha256: The data set that both runs answered.
        level: Confidence level of the intervals.
        left_out_a: Samples of a that b lacks, left out.
        left_out_b: Samples of b that a lacks, left out.
        format_share: Whether b begins its answers, and a is the same run without, so that the differences are what the
            form of the answer costs; left out where both do or neither does.
        missing_a: Samples without a prediction in a; left out where it is whole.
        missing_b: Samples without a prediction in b; left out where it is whole.
        rows: By length, then task.
        averages: By length; none of a length where the model can do no task.
    """

    format: Literal["sparse-tasks-comparison"]
    schema_version: Literal["1.0"]
    dataset_sha256: Sha256
    level: Level
    left_out_a: Natural
    left_out_b: Natural
    format_share: bool | UnsetType = UNSET
    missing_a: Count | UnsetType = UNSET
    missing_b: Count | UnsetType = UNSET
    rows: Annotated[list[ComparedTask], Meta(min_length=1)]
    averages: list[ComparedAverage]


class PackedPredictions(Record, frozen=True, kw_only=True):
    """Predictions as JSON lines in the data set's order, compressed."""

    encoding: Literal["xz+base64"]
    sha256: Sha256
    bytes: Annotated[int, Meta(ge=1, le=2**28)]
    lines: Annotated[int, Meta(ge=1, le=1_000_000)]
    data: Annotated[str, Meta(min_length=1, max_length=2**26)]


class SubmissionRun(Record, frozen=True, kw_only=True):
    """A scored run with everything that it predicted."""

    settings: PublicSettings
    result: Result
    comparison: Comparison | None
    predictions: PackedPredictions


class Submission(Record, frozen=True, kw_only=True):
    """A submission to a leaderboard: runs that a maintainer can check without trusting them.

    Attributes:
        datasets: What the data sets of the runs were generated from and with, so that they can be generated again;
            left out in older files.
    """

    format: Literal["sparse-tasks-submission"]
    schema_version: Literal["1.0"]
    name: Annotated[str, Meta(min_length=1, max_length=100)]
    contact: Annotated[str, Meta(min_length=1, max_length=200)] | None
    sparse_tasks: Annotated[str, Meta(min_length=1, max_length=50)]
    runs: Annotated[list[SubmissionRun], Meta(min_length=1, max_length=200)]
    datasets: list[Description] | UnsetType = UNSET


class Reason(Record, frozen=True, kw_only=True):
    """A reason to refuse a submission, or a warning.

    Attributes:
        code: Kind of the reason, a word that stays the same.
        where: The run by its model, method and sparsity, and the place in it, such as
            ``acme/small, quest 0.5: result.configs[ruler_vt 4k].mean``; "file" for all of a submission.
        message: One line without control characters.
    """

    code: Annotated[str, Meta(pattern=r"^[a-z_]+$(?!\n)")]
    where: str
    message: str


class Verdict(Record, frozen=True, kw_only=True):
    """The outcome of a check of a submission."""

    format: Literal["sparse-tasks-verdict"]
    schema_version: Literal["1.0"]
    accepted: bool
    file_sha256: Sha256 | None
    name: str | None
    runs: Natural
    samples: Natural
    reasons: list[Reason]
    warnings: list[Reason]
    sparse_tasks: str
