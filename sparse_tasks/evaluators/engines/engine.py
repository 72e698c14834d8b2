"""Engines: programs that answer prompts, in any order, with measurements of each answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import ClassVar, Final, TypeVar

import msgspec

from sparse_tasks.attention.attention import Attention
from sparse_tasks.core.errors import UsageError, nearest
from sparse_tasks.core.records import JsonObject, Phase
from sparse_tasks.core.registry import Registry, import_modules
from sparse_tasks.evaluators.models import Model, find_model

# Settings that other options control, and those that would give anything but one text.
_SET_BY_ENGINES = {
    *("temperature", "do_sample", "seed", "max_tokens", "max_new_tokens", "max_length"),
    *("n", "num_return_sequences", "return_dict_in_generate", "output_kind", "detokenize", "skip_clone", "extra_args"),
}

N = TypeVar("N", int, float)

OVERRIDE: Final = "override_generation_config"
"""Engine argument with settings of decoding, where those of a model's ``generation_config.json`` do not count."""

NOT_USED: Final = "generation_config_not_used"
"""Key of an engine's details: settings in that file that are left out."""

SELF_TEST: Final = "self_test"
"""Key of an engine's details: how far sparse attention that leaves nothing out is from its own; None for untested."""

INSTEAD_OF: Final = "dtype_instead_of"
"""Key of an engine's details: the model's own type, where another is much faster on this machine."""

SPARSE_LAYERS: Final = "sparse_layers"
"""Key of an engine's details: layers in which methods run, of which alone sparsity is measured."""

LAYERS: Final = "layers"
"""Key of an engine's details: all layers of the model."""


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to answer.

    Attributes:
        id: The sample's id.
        prompt: The user's message, for engines that render it themselves.
        ids: Token ids of the rendered prompt, special tokens included; empty if the engine takes none.
        max_new_tokens: Answer budget in tokens.
        beginning: Beginning of the answer in the model's turn, for engines that render prompts themselves.
        context: First tokens of ``ids``, those of the prompt up to the end of its context, after which methods that
            evict choose what they keep; None if they read the whole prompt first.
        later: Messages after the prompt, alternating between model and user, for engines that render it themselves.
        session: Name shared by the consecutive questions on one context; empty for a single question.
        questions: Number of questions on that context.
    """

    id: str
    prompt: str
    ids: list[int]
    max_new_tokens: int
    beginning: str = ""
    context: int | None = None
    later: tuple[str, ...] = ()
    session: str = ""
    questions: int = 1


class Upcoming:
    """Requests in order for an engine: the first of a session, and its others once that is answered.

    By then the context of all of them is in the cache.

    Attributes:
        tokens: Number of token ids of the waiting requests.
    """

    def __init__(self, requests: Iterable[Request]) -> None:
        self._source = iter(requests)
        self._open: dict[str, int] = {}  # unanswered requests of sessions that have begun
        self._waiting: dict[str, list[Request]] = {}
        self._ready: deque[Request] = deque()
        self.tokens = 0

    def take(self) -> Request | None:
        """The next request; None if there is none until another answer comes, or at all."""
        while not self._ready:
            request = next(self._source, None)
            if request is None:
                return None
            if not request.session:
                return request
            if request.session not in self._open:
                self._open[request.session] = request.questions
                self._waiting[request.session] = []
                return request
            if request.session in self._waiting:
                self._waiting[request.session].append(request)
                self.tokens += len(request.ids)
            else:
                return request
        return self._ready.popleft()

    def answered(self, request: Request) -> bool:
        """Record an answer; returns whether it was the last of its session."""
        for waiting in self._waiting.pop(request.session, []):
            self._ready.append(waiting)
            self.tokens -= len(waiting.ids)
        if not request.session:
            return False
        self._open[request.session] -= 1
        if self._open[request.session]:
            return False
        del self._open[request.session]
        return True


@dataclass(frozen=True, slots=True)
class Output:
    """An answer with its measurements; None where unknown.

    Attributes:
        id: The request's id.
        text: The model's output, without special tokens.
        finish_reason: ``stop`` (the model ended) or ``length`` (the budget did).
        input_tokens: Tokens of the prompt as the model got it.
        output_tokens: Tokens of the output.
        thinking_tokens: Those of thought, if the engine reports them and gives no ids.
        seconds_to_first_token: From the moment the engine accepted the request.
        seconds: Until the last token.
        sparsity: Measured share of query-key interactions that were not computed, in [0, 1], by phase
            (``prefill``, ``decode``), on average over layers and heads; None where nothing was measured.
        sparsity_spread: Its standard deviation over layers and heads, by phase.
        kv_bytes_per_step: Bytes of keys and values that a decoding step read, all layers together, on average.
        ids: Token ids of the output, special tokens included.
        turns: The answers to the questions of a sample that asks several, of which this is the sum.
    """

    id: str
    text: str
    finish_reason: str | None
    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds_to_first_token: float | None = None
    seconds: float | None = None
    sparsity: dict[Phase, float] | None = None
    sparsity_spread: dict[Phase, float] | None = None
    kv_bytes_per_step: float | None = None
    thinking_tokens: int | None = None
    ids: Sequence[int] | None = None
    turns: Sequence[Output] = ()


def joined(answers: Sequence[Output]) -> Output:
    """The answers to a sample's questions, in their order, as one output (see ``records.Prediction``)."""
    first = answers[0]
    if len(answers) == 1:
        return first
    ended = [answer.finish_reason for answer in answers]
    read = [answer.kv_bytes_per_step for answer in answers if answer.kv_bytes_per_step is not None]
    return replace(
        first,
        text="\n\n".join(answer.text for answer in answers),
        finish_reason="length" if "length" in ended else ended[0],
        output_tokens=_total([answer.output_tokens for answer in answers]),
        thinking_tokens=_total([answer.thinking_tokens for answer in answers]),
        seconds=_total([answer.seconds for answer in answers]),
        sparsity=_phases([answer.sparsity or {} for answer in answers]),
        sparsity_spread=_phases([answer.sparsity_spread or {} for answer in answers]),
        kv_bytes_per_step=fmean(read) if read else None,
        ids=None,
        turns=answers,
    )


def _total(values: Sequence[N | None]) -> N | None:
    """The sum; None if a value is unknown."""
    known = [value for value in values if value is not None]
    return sum(known[1:], known[0]) if len(known) == len(values) else None


def _phases(measured: Sequence[dict[Phase, float]]) -> dict[Phase, float] | None:
    """Prefill of the first answer, before which the context was read, and the mean of decoding over answers."""
    found: dict[Phase, float] = {"prefill": measured[0]["prefill"]} if "prefill" in measured[0] else {}
    if steps := [phases["decode"] for phases in measured if "decode" in phases]:
        found["decode"] = fmean(steps)
    return found or None


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Model, sampling and attention of an engine.

    Attributes:
        model: The model.
        temperature: 0 is greedy.
        seed: Sampling seed.
        arguments: The user's arguments of the engine (``--engine-arg key=value``); values are JSON if they parse as
            JSON, else strings.
        attention: Dense, or the methods that compute attention.
        begin_answer: Whether prompts end inside the answer.
        self_test: Whether an engine first compares sparse attention with its own attention.
        free_blocks: Whether to free cache blocks that no later query sees.
        sessions: Whether there are several questions on one context.
    """

    model: Model
    temperature: float = 0.0
    seed: int = 42
    arguments: JsonObject = field(default_factory=dict)
    attention: Attention = Attention.DENSE
    begin_answer: bool = False
    self_test: bool = True
    free_blocks: bool = False
    sessions: bool = False


class Engine(ABC):
    """Inference engine. Cheap to construct; ``start`` loads the model.

    Args:
        settings: Settings.

    Raises:
        UsageError: An argument is unknown or wrong, or a package is missing (the message says how to get it).
    """

    name: ClassVar[str]
    runs_methods: ClassVar[bool] = False
    """Whether it runs the sparse attention methods."""
    elsewhere: ClassVar[bool] = False
    """Whether the model runs outside this program, so that its attention is nominal or unknown."""
    labelled: ClassVar[bool] = False
    """Whether a sparse attention is a label of answers that exist already."""
    measures_sparsity: ClassVar[bool] = False
    """Whether it measures the sparsity of every answer under sparse attention."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Packages whose versions ``run.json`` reports."""
    samples: ClassVar[bool] = True
    """Whether it samples as ``EngineSettings`` says."""
    takes_ids: bool = True
    """Whether prompts come as token ids, which this project renders, or as text."""
    compresses_contexts: ClassVar[bool] = False
    """Whether methods that evict can choose what they keep before the question is read (``Request.context``)."""
    frees_blocks: ClassVar[bool] = False
    """Whether it can free blocks of the cache that no later query sees."""
    thinks_in: ClassVar[str | None] = None
    """The family of marks (see ``thinking``) around thoughts that it gets apart from the answer."""
    begins_answers: ClassVar[bool] = False
    """Whether it heeds ``Request.beginning`` where prompts come as text."""

    def __init__(self, settings: EngineSettings) -> None:
        if settings.attention.sparse and not (self.runs_methods or self.labelled):
            able = ", ".join(name for name in ENGINES.names() if ENGINES.get(name).runs_methods)
            remedy = f"does not run in the engine {self.name}; choose --engine from {able}, or start the server with it"
            raise UsageError("attention", settings.attention.method, remedy)
        if settings.free_blocks and not self.frees_blocks:
            able = ", ".join(name for name in ENGINES.names() if ENGINES.get(name).frees_blocks)
            remedy = f"is not for the engine {self.name}; choose --engine from {able}, or start a server with it"
            raise UsageError("free-blocks", True, remedy)
        self.settings = settings

    @property
    def attention(self) -> Attention:
        """The attention that runs, as far as this project knows."""
        attention = self.settings.attention
        nominal = self.elsewhere and attention != Attention.UNKNOWN
        return msgspec.structs.replace(attention, nominal=True) if nominal else attention

    @property
    def arguments(self) -> JsonObject:
        """The arguments that may affect answers; a run resumes only with the same ones."""
        return dict(self.settings.arguments)

    @property
    def devices(self) -> int:
        """GPUs per engine, if there are any."""
        return 1

    @classmethod
    def find(cls, name: str) -> Model:
        """The model that the user named.

        Raises:
            UsageError: The model does not exist.
        """
        return find_model(name)

    @abstractmethod
    def context(self) -> int | None:
        """Maximum tokens of prompt and answer together; None without a limit."""

    @abstractmethod
    def start(self, needed: int) -> None:
        """Load the model, for requests of at most ``needed`` tokens, prompt and answer together."""

    @abstractmethod
    def generate(self, requests: Iterable[Request]) -> Generator[Output, None, None]:
        """Answer the requests; outputs are yielded as they finish, in any order.

        Requests are taken from the iterable as the engine needs them, not all at once.

        Raises:
            EngineError: The engine failed; earlier outputs are valid.
        """

    @abstractmethod
    def version(self) -> str | None:
        """Version of the library that answers."""

    def details(self) -> JsonObject:
        """Further facts for ``run.json`` once the engine has started."""
        return {}

    def notes(self) -> list[str]:
        """What the user should know about the started engine, one sentence each."""
        details, notes = self.details(), list[str]()
        if slow := details.get(INSTEAD_OF):
            because = f"for which this processor has no instructions (--engine-arg dtype={slow} keeps it)"
            notes.append(f"computes in {details['dtype']} instead of {slow}, {because}")
        if left_out := details.get(NOT_USED):
            named = ", ".join(f"{name}={value}" for name, value in left_out.items())
            notes.append(f"leaves out {named} of the model's generation_config.json ({OVERRIDE} sets it)")
        if (sparse := details.get(SPARSE_LAYERS)) != (layers := details.get(LAYERS)):
            others = "the others have a sliding window, or no attention"
            notes.append(f"runs methods in {sparse} of {layers} layers, of which alone sparsity is measured; {others}")
        return notes

    def take_over(self, running: Engine, needed: int) -> bool:
        """Take over the model that another engine of this kind has loaded.

        Args:
            running: The other engine, started.
            needed: See ``start``.

        Returns:
            Whether it could: the settings differ only in what can be changed while it runs.
        """
        return False

    def stop(self) -> None:  # noqa: B027 - most have nothing to release
        """Release what ``start`` loaded."""

    def decoding(self, known: Iterable[str]) -> JsonObject:
        """The user's settings of decoding (``--engine-arg 'override_generation_config={...}'``).

        Args:
            known: Names of the settings that the engine supports, including those it sets itself.

        Raises:
            UsageError: They are not a JSON object, or one is unknown or set by the engine.
        """
        given = self.settings.arguments.get(OVERRIDE, {})
        if not isinstance(given, dict):
            raise UsageError(
                "engine-arg", f"{OVERRIDE}={given}", 'is not a JSON object like {"repetition_penalty": 1.1}'
            )
        able = sorted(set(known) - _SET_BY_ENGINES)
        for name, value in given.items():
            if name not in able:
                options = "is set by other options" if name in _SET_BY_ENGINES else nearest(name, able)
                raise UsageError("engine-arg", f"{OVERRIDE}.{name}={value}", options)
        return given


ENGINES: Registry[type[Engine]] = Registry(
    "engine", lambda: import_modules("sparse_tasks.evaluators.engines"), "sparse_tasks.engines"
)
"""Engines by the name that ``--engine`` takes; each module imports its heavy package when the engine starts."""
