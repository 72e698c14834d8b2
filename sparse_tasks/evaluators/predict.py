"""Completion of a run's predictions: the engine answers missing samples, and each answer is written on arrival."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from msgspec import UNSET

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.method import EvictMethod
from sparse_tasks.core.beginning import ANSWER
from sparse_tasks.core.errors import DataError, EngineError, UsageError, nearest, without_passwords
from sparse_tasks.core.tokenizers import PromptTokenizer, load_tokenizer
from sparse_tasks.core.tokenizers.template import ChatTemplate
from sparse_tasks.core.turns import sample_id
from sparse_tasks.evaluators.dataset import Dataset, Selection
from sparse_tasks.evaluators.engines.engine import ENGINES, Engine, EngineSettings, Output, joined
from sparse_tasks.evaluators.engines.group import engines
from sparse_tasks.evaluators.engines.running import Starter
from sparse_tasks.evaluators.environment import environment
from sparse_tasks.evaluators.models import DEMO, PROBES, Model, find_model
from sparse_tasks.evaluators.prompts import SampleInfo, check_context, count_tokens, made_for, requests
from sparse_tasks.evaluators.records import (
    COMPRESS,
    DatasetRecord,
    EngineRecord,
    ModelRecord,
    Prediction,
    PromptRecord,
    RunSettings,
    SamplingRecord,
    ThinkingRecord,
    TurnOutput,
)
from sparse_tasks.evaluators.runs import PREDICTIONS, Run
from sparse_tasks.evaluators.thinking import ANY, Thinking, counted, opened_by

_THINKING: Final = ("auto", "open", "closed")


@dataclass(frozen=True)
class RunRequest:
    """Settings of a run as the user gave them.

    Attributes:
        dataset: The data set.
        selection: Its samples to answer.
        model: As the user named it.
        engine: Registered name.
        engine_arguments: Arguments of the engine (see ``EngineSettings``).
        temperature: 0 is greedy.
        seed: Sampling seed.
        max_new_tokens: Answer budget for every sample; None for the data set's own.
        tokenizer: The model's tokenizer; None for that in its folder or repository.
        chat_template: ``auto``, ``none`` or a file.
        command_line: The user's command.
        attention: Dense, or the methods that compute attention; of a model that runs elsewhere, its label. None is
            dense, and unknown elsewhere.
        begin_answer: Whether prompts end inside the answer; None: as the data set's.
        compress: What methods that evict read before they choose what they keep: the whole ``prompt``, or its
            ``context``, before the question.
        thinking: Whether the prompt opens a block of thought: ``auto`` asks the chat template that renders it, or else
            that of the data set; ``open`` and ``closed`` say so of prompts that are rendered elsewhere.
        thinking_tags: Marks of thought (see ``Thinking.of``); empty for all families.
        thinking_budget: Tokens of thought on top of the answer budget; None where the answer budget is all.
        self_test: Whether vLLM's attention and sparse attention are compared before the first prompt.
        free_blocks: Whether vLLM takes blocks of its cache back that no later query sees.
        engines: Engines that run at once and share the samples; None for one, or for all that fit on a cluster.
        on: Address of a Ray cluster on which they run (see ``connected``); None for this machine.
    """

    dataset: Dataset
    selection: Selection
    model: str
    engine: str = "vllm"
    engine_arguments: Mapping[str, Any] = field(default_factory=dict)
    temperature: float = 0.0
    seed: int = 42
    max_new_tokens: int | None = None
    tokenizer: str | None = None
    chat_template: str = "auto"
    command_line: Sequence[str] = ()
    attention: Attention | None = None
    begin_answer: bool | None = None
    compress: str = "prompt"
    thinking: str = "auto"
    thinking_tags: Sequence[str] = ()
    thinking_budget: int | None = None
    self_test: bool = True
    free_blocks: bool = False
    engines: int | None = None
    on: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 100:
            raise UsageError("temperature", self.temperature, "must be between 0 (greedy) and 100")
        if not 0 <= self.seed < 2**63:
            raise UsageError("seed", self.seed, "must be a whole number from 0 to 9223372036854775807")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise UsageError("max-new-tokens", self.max_new_tokens, "must be at least 1")
        if self.engines is not None and self.engines < 1:
            raise UsageError("engines", self.engines, "must be at least 1")
        if (self.engines or 1) > 1 and ENGINES.get(self.engine).elsewhere:
            raise UsageError("engines", self.engines, f"start models on this machine, and {self.engine} starts none")
        if self.on is not None and ENGINES.get(self.engine).elsewhere:
            raise UsageError("on", self.on, f"starts models on a cluster, and {self.engine} starts none")
        if self.thinking not in _THINKING:
            raise UsageError("thinking", self.thinking, nearest(self.thinking, _THINKING))
        if self.compress not in COMPRESS:
            raise UsageError("compress", self.compress, nearest(self.compress, COMPRESS))
        if self.compress == "context" and self.free_blocks:
            raise UsageError(
                "compress", self.compress, "cannot be combined with --free-blocks, which frees by whole prompts"
            )
        if self.compress == "context" and self.attention is not None:
            self.attention.check_context("compress", self.compress)
        if self.compress == "context" and self.dataset.manifest.request.question_position != "after":
            remedy = "is too late: the question stands before the context, too; generate --question-position after"
            raise UsageError("compress", self.compress, remedy)

    @property
    def begins_answer(self) -> bool:
        """Whether prompts end inside the answer."""
        return self.dataset.begins_answer if self.begin_answer is None else self.begin_answer

    def settings(self) -> EngineSettings:
        """Settings of its engine.

        Raises:
            UsageError: The model does not exist.
        """
        kind = ENGINES.get(self.engine)
        model = kind.find(self.model)
        attention = self.attention or (Attention.UNKNOWN if kind.elsewhere else Attention.DENSE)
        return EngineSettings(
            model,
            self.temperature,
            self.seed,
            dict(self.engine_arguments),
            attention,
            self.begins_answer,
            self.self_test,
            self.free_blocks,
            self.dataset.asks_several(self.selection),
        )


class Progress(Protocol):
    """Receiver of progress. Subclasses override the methods that they need."""

    def counting(self, samples: int) -> None:
        """Token counting begins."""
        return

    def counted(self) -> None:
        """A prompt was counted."""
        return

    def starting(self, engine: str, samples: int, tokens: int, done: int) -> None:
        """The engine begins to load the model, to answer ``samples`` of ``tokens``; ``done`` are already answered."""
        return

    def started(self) -> None:
        """The engine is ready."""
        return

    def noted(self, note: str) -> None:
        """The engine has a note for the user."""
        return

    def predicted(self, output: Output) -> None:
        """An answer was written."""
        return


class _Silent(Progress):
    pass


def predict(
    request: RunRequest, run: Run, progress: Progress | None = None, starter: Starter | None = None
) -> RunSettings:
    """Answer every sample of the selection that ``run`` lacks.

    Returns:
        Settings of the run.

    Raises:
        UsageError: The folder, an argument, or the length of a prompt does not fit.
        EngineError: The engine failed; finished answers are kept, and the next call resumes.
    """
    progress = progress or _Silent()
    kind = ENGINES.get(request.engine)
    contexts = request.compress == "context"
    if contexts and not kind.compresses_contexts:
        able = ", ".join(name for name in ENGINES.names() if ENGINES.get(name).compresses_contexts)
        remedy = f"lets methods that evict see the whole prompt; choose --engine from {able}, or --compress prompt"
        raise UsageError("engine", request.engine, remedy)
    settings = request.settings()
    engine = kind(settings)
    begin_answer = request.begins_answer
    if begin_answer and not (engine.takes_ids or engine.begins_answers):
        remedy = "renders prompts itself and cannot begin answers; add --no-begin-answer"
        raise UsageError("engine", request.engine, remedy)
    tokenizer = prompt_tokenizer(request, settings.model) if engine.takes_ids else None
    thinking = _thinking(request, engine, tokenizer)
    record = _settings(request, engine, tokenizer, thinking)
    run.check(record)
    done = run.finished()

    samples: dict[str, SampleInfo] = {}
    counts: dict[str, int] = {}
    if tokenizer is not None and not made_for(request.dataset, tokenizer, begin_answer):
        progress.counting(sum(1 for _ in request.dataset.rows(request.selection, ["id"])))
    counting = count_tokens(request.dataset, request.selection, tokenizer, progress.counted, begin_answer=begin_answer)
    for sample, tokens in counting:
        samples[sample.id], counts[sample.id] = sample, tokens
    if strangers := sorted(done - samples.keys()):
        raise DataError(f"{run.path / PREDICTIONS}: {strangers[0]} is not a sample of the run's selection")
    answer_budgets = {
        name: request.max_new_tokens or sample.max_new_tokens for name, sample in samples.items() if name not in done
    }
    budgets = {name: budget + (thinking.budget or 0) for name, budget in answer_budgets.items()}
    if any(sample.chat for sample in samples.values()):
        _check_chats(request, kind)
    if budgets:
        asked = {of: tokens for name in budgets for of, tokens in _questions(samples[name], counts[name])}
        needs = [(samples[sample_id(of)].length, tokens, budgets[sample_id(of)]) for of, tokens in asked.items()]
        needed = check_context(needs, engine.context())
        tokens = sum(tokens for _, tokens, _ in needs)
        progress.starting(request.engine, len(budgets), tokens, len(samples) - len(budgets))
        left, gathered = set(asked), dict[str, dict[str, Output]]()
        with ExitStack() as held:
            running = (starter or held.enter_context(engines(request.engines, request.on))).start(engine, needed)
            started = msgspec.structs.replace(record.engine, version=running.version(), details=running.details())
            # A server reports its attention once queried.
            model = msgspec.structs.replace(record.model, shape=engine.settings.model.shape)
            record = msgspec.structs.replace(record, engine=started, model=model, attention=engine.attention)
            run.begin(record)
            for note in running.notes():
                progress.noted(note)
            progress.started()
            prompts = requests(
                request.dataset, request.selection, tokenizer, budgets, begin_answer=begin_answer, contexts=contexts
            )
            with closing(running.generate(prompts)) as outputs:
                for output in outputs:
                    name = sample_id(output.id)
                    if output.id not in left:
                        what = "again" if name in samples else "which was not requested"
                        raise EngineError(f"the engine answered {output.id}, {what}")
                    left.remove(output.id)
                    if tokenizer is not None:
                        _check_count(output, asked[output.id])
                        output = _counted(output, tokenizer, thinking, answer_budgets[name])
                    sample, answers = samples[name], gathered.setdefault(name, {})
                    answers[output.id] = output
                    if len(answers) == len(sample.requests):
                        del gathered[name]
                        output = joined([answers[of] for of in sample.requests])
                        run.add(_prediction(sample, output))
                        progress.predicted(output)
            if left:
                first = next(of for of in asked if of in left)
                what = "samples" if len(asked) == len(budgets) else "answers"
                raise EngineError(f"the engine left out {len(left)} of {len(asked)} {what}, {first} first")
    run.put_in_order(list(samples))
    return run.settings or record


def _questions(sample: SampleInfo, tokens: int) -> Iterator[tuple[str, int]]:
    """The requests of a sample with the tokens of their prompts."""
    return zip(sample.requests, (tokens, *sample.later), strict=True)


def _check_chats(request: RunRequest, kind: type[Engine]) -> None:
    """Refuse chats if an evicting method could not keep its choice from before the first answer.

    Raises:
        UsageError: The engine, or an option, does not support them.
    """
    if request.attention is None or not isinstance(request.attention.decode, EvictMethod):
        return
    request.attention.check_context("dataset", "chats")
    if not kind.compresses_contexts:
        able = ", ".join(name for name in ENGINES.names() if ENGINES.get(name).compresses_contexts)
        remedy = (
            "gets each question of a chat as a separate prompt, and a method that evicts would choose again at the end "
            f"of each, so the loss from its first choice would not show; choose --engine from {able}, or a data set "
            "whose questions stand alone (generate --set turns_story.form=parallel)"
        )
        raise UsageError("engine", request.engine, remedy)
    if request.free_blocks:
        remedy = "does not go with several questions in a chat: blocks are freed by whole prompts"
        raise UsageError("free-blocks", True, remedy)


def default_folder(request: RunRequest, name: str | None = None) -> Path:
    """``runs/<model>-<data set>``, with the attention if sparse, in names valid on every file system.

    Args:
        request: The run.
        name: Last part of the name, in place of the attention.
    """
    data = request.dataset.name if request.dataset.revision is None else request.dataset.name.partition("@")[0]
    names = [Path(part).name or "run" for part in (request.model, data)]
    if name is None and request.attention is not None and request.attention.sparse:
        name = request.attention.label
    if name is not None:
        names.append(name)
    return Path("runs") / re.sub(r"[^\w.-]", "-", "-".join(names))


def prompt_tokenizer(request: RunRequest, model: Model) -> PromptTokenizer:
    """The tokenizer of a run's prompts.

    Raises:
        UsageError: The model has no usable one, and none is named.
    """
    keeps = bool(request.dataset.manifest.request.control_tokens)
    source = model.tokenizer if request.tokenizer is None else request.tokenizer
    if source in (DEMO, *PROBES):  # also a server's name for it
        source = find_model(source).tokenizer
    if request.tokenizer is not None:
        return load_tokenizer(source, request.chat_template, keeps_control=keeps)
    try:
        return load_tokenizer(source, request.chat_template, keeps_control=keeps)
    except UsageError as error:
        if error.field != "tokenizer":
            raise
        remedy = f"has no usable tokenizer ({error.remedy}); name the model's with --tokenizer"
        raise UsageError("model", model.name, remedy) from error


def _thinking(request: RunRequest, engine: Engine, tokenizer: PromptTokenizer | None) -> Thinking:
    """The blocks of thought of a run, and which of them its prompts open.

    Raises:
        UsageError: A tag is unknown, or the prompts are rendered here and open another block than the user says.
    """
    blocks = Thinking.of(request.thinking_tags, budget=request.thinking_budget)
    if engine.thinks_in is not None and engine.thinks_in not in blocks.tags:
        blocks = replace(blocks, tags=(*blocks.tags, engine.thinks_in))
    if tokenizer is not None:
        chat = tokenizer.template is not None
        opened = opened_by(tokenizer, blocks.tags, ANSWER if request.begins_answer else "") if chat else None
        if request.thinking != "auto" and (request.thinking == "open") != (opened is not None):
            does = "opens no block" if opened is None else f"opens a block ({opened})"
            raise UsageError("thinking", request.thinking, f"contradicts the chat template, which {does}; leave it out")
        return replace(blocks, opened=opened)
    recorded = request.dataset.manifest.chat_template
    template = None if recorded is None else ChatTemplate(recorded.source, recorded.special_tokens)
    opened = None if request.thinking == "closed" else opened_by(template, blocks.tags)
    if request.thinking == "open" or (opened is not None and engine.thinks_in is not None):
        opened = opened if opened is not None and engine.thinks_in is None else ANY
    return replace(blocks, opened=opened)


def _settings(
    request: RunRequest, engine: Engine, tokenizer: PromptTokenizer | None, thinking: Thinking
) -> RunSettings:
    settings = engine.settings
    dataset, selection, model = request.dataset, request.selection, settings.model
    generated = dataset.manifest.request
    template = None if tokenizer is None else tokenizer.template
    of_each = min(selection.limit or generated.samples, generated.samples)
    return RunSettings(
        format="sparse-tasks-run",
        schema_version="1.0",
        started=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        dataset=DatasetRecord(
            name=dataset.name,
            revision=dataset.revision,
            sha256=dataset.sha256,
            fingerprint=dataset.manifest.fingerprint,
            tasks=list(selection.tasks),
            lengths=list(selection.lengths),
            limit=selection.limit,
            samples=len(selection.tasks) * len(selection.lengths) * of_each,
        ),
        model=ModelRecord(
            name=model.name,
            revision=model.revision,
            config_sha256=model.config_sha256,
            sha256=model.sha256,
            shape=model.shape,
        ),
        engine=EngineRecord(name=engine.name, version=None, arguments=engine.arguments, details={}),
        attention=engine.attention,
        query_aware=generated.question_position == "both",
        compress="context" if request.compress == "context" else UNSET,
        sampling=SamplingRecord(
            temperature=settings.temperature if engine.samples else None,
            seed=settings.seed if engine.samples else None,
            max_new_tokens=request.max_new_tokens,
        ),
        prompt=PromptRecord(
            rendered_by="engine" if tokenizer is None else "sparse-tasks",
            tokenizer_sha256=None if tokenizer is None else tokenizer.sha256,
            chat_template_sha256=None if template is None else template.sha256,
            as_generated=tokenizer is not None and made_for(dataset, tokenizer, request.begins_answer),
            begin_answer=request.begins_answer or UNSET,
        ),
        thinking=ThinkingRecord(tags=list(thinking.tags), opened=thinking.opened, budget=thinking.budget),
        environment=environment(),
        other_environments=[],
        command_line=without_passwords(request.command_line),
        made_from=dataset.manifest.description,
    )


def _check_count(output: Output, counted: int) -> None:
    if output.input_tokens not in (None, counted):
        raise EngineError(
            f"the engine read {output.input_tokens:,} tokens for {output.id}, but its prompt has {counted:,}: "
            "something was cut off or added"
        )


def _counted(output: Output, tokenizer: PromptTokenizer, thinking: Thinking, budget: int) -> Output:
    """An output whose tokens of thought are counted and, where they have a budget, held to it."""
    if output.ids is None:
        return output
    found = counted(output.text, output.ids, tokenizer.backend, thinking, budget)
    output = replace(output, text=found.text, output_tokens=found.tokens, thinking_tokens=found.thinking)
    # The time of the last kept token is unknown.
    return replace(output, finish_reason="length", seconds=None) if found.cut else output


def _prediction(sample: SampleInfo, output: Output) -> Prediction:
    names = [field.name for field in fields(output) if field.name not in ("ids", "turns")]
    measured = {name: getattr(output, name) for name in names}
    of_turn = TurnOutput.__struct_fields__
    turns = [TurnOutput(**{name: getattr(turn, name) for name in of_turn}) for turn in output.turns]
    return Prediction(task=sample.task, index=sample.index, length=sample.length, turns=turns or UNSET, **measured)
