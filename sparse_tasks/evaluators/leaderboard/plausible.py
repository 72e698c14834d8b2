"""Plausibility of claimed sparsities: whether a run's method can have reached a prediction's sparsity.

A method's class gives the minimum and maximum that it can read for its budget and lengths (``density_span``,
``read_span``), up to rounding. These are wide if the count depends on content or on an engine's chunks: no honest run
may be refused. They catch numbers from another run or method, and invented ones.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

from msgspec import UNSET

from sparse_tasks.attention.attention import DENSE, Attention, composed
from sparse_tasks.attention.method import METHODS, EvictMethod, Method, PrefillMethod, Span
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.records import JsonObject, Phase, Phases
from sparse_tasks.evaluators.engines.engine import ENGINES
from sparse_tasks.evaluators.records import Prediction, PublicSettings

_HAIR: Final = 1e-6  # tolerance of rounded sums
_SLACK: Final = 0.9  # tolerance of budgets in whole tokens of a shorter context


class _ImpossibleError(Exception):
    """The contradiction, in words."""


class Sizes(Protocol):
    """A sample's tokens."""

    @property
    def input_tokens(self) -> int: ...
    @property
    def max_new_tokens(self) -> int: ...


# --- a prediction ---------------------------------------------------------------------------------------------


def foreign(method: str) -> list[str]:
    """The methods in a composition from other packages, for which only general bounds are known."""
    return [name for name in method.split("+") if name != DENSE and not _ours(name)]


def _ours(name: str) -> bool:
    return name in METHODS and METHODS.get(name).__module__.startswith("sparse_tasks.")


def contradiction(settings: PublicSettings) -> str | None:
    """The reason why no run can have these settings, a sentence without its subject; None if one can."""
    engine, attention = settings.engine.name, settings.attention
    if settings.compress == "context" and engine in ENGINES and not ENGINES.get(engine).compresses_contexts:
        return f"chose what to keep before the question, which {engine} cannot"
    try:
        phases = [_phase(type(method)) for method in _known(attention)]
    except _ImpossibleError as reason:
        return str(reason)
    if len(set(phases)) < len(phases):
        return f"is under {_quoted(attention.method)}, two methods of one phase"
    return None


def implausible(settings: PublicSettings, prediction: Prediction, sample: Sizes) -> str | None:
    """The reason why a prediction contradicts its run's settings; None if it does not.

    Returns:
        A sentence without its subject, the sample; it may quote what the run says.
    """
    try:
        prompt, written = _tokens(settings, prediction, sample)
        measured = _measured(settings, prediction)
        if measured is None:
            return None
        ends = prompt + 1, prompt + written + 1  # tokens cached at the first step, and an upper bound for the last
        spans: dict[Phase, Span] = {
            "prefill": (2 / (prompt + 1), 1.0),  # a query at least sees itself
            "decode": (1 / ends[1], 1.0),
        }
        # If more is read after the compressed context, steps begin there.
        behind = settings.compress == "context" or prediction.turns is not UNSET
        for phase, span in _spans(settings.attention, prompt, ends, behind).items():
            spans[phase] = max(span[0], spans[phase][0]), min(1.0, span[1])
        _check_phases(settings, measured, prediction.output_tokens)
        for phase, sparsity in measured.items():
            _check_sparsity(settings.attention, phase, sparsity, spans[phase], prompt, ends)
        _check_spread(measured, prediction.sparsity_spread)
        cached = (1, ends[1]) if behind else ends
        _check_bytes(settings, measured, prediction.kv_bytes_per_step, cached)
    except _ImpossibleError as reason:
        return str(reason)
    return None


def _tokens(settings: PublicSettings, prediction: Prediction, sample: Sizes) -> tuple[int, int]:
    """Tokens of the prompt, and of the output or its budget; they are checked elsewhere."""
    read, written = prediction.input_tokens, prediction.output_tokens
    budget = settings.sampling.max_new_tokens or sample.max_new_tokens
    return max(1, sample.input_tokens if read is None else read), max(1, budget if written is None else written)


def _measured(settings: PublicSettings, prediction: Prediction) -> Phases | None:
    """Sparsity by phase; None if none was measured, and none is needed."""
    method, engine = settings.attention.method, settings.engine.name
    if prediction.sparsity is None:
        if prediction.sparsity_spread is not None:
            raise _ImpossibleError("has the spread of a sparsity that was not measured")
        if prediction.kv_bytes_per_step is not None:
            raise _ImpossibleError("has bytes read, and no sparsity that was measured")
        if settings.attention.sparse and _measures(engine):
            raise _ImpossibleError(f"has no measured sparsity; {engine} measures what {_quoted(method)} leaves out")
        return None
    if method == Attention.UNKNOWN.method or settings.attention.nominal is True or _is_unmeasured(engine):
        raise _ImpossibleError(f"has a measured sparsity, which {engine[:40]} cannot know")
    return prediction.sparsity


def _spans(attention: Attention, prompt: int, ends: tuple[int, int], contexts: bool) -> dict[Phase, Span]:
    """Minimum and maximum density of each phase, if known."""
    spans: dict[Phase, Span] = {}
    for method in _known(attention):
        phase = _phase(type(method))
        if method.sparsity == 0:
            least, most = 1.0, 1.0
        elif isinstance(method, PrefillMethod):
            least, most = method.density_span(prompt)
            if contexts:  # it may have acted only in the context
                least, most = _SLACK * least, 1.0
        elif contexts and isinstance(method, EvictMethod):
            # The rest of the prompt after a context of unknown length may be all but one token.
            least = 0.0 if method.each_step else _SLACK * _of(prompt + 1, method.read_span(prompt, prompt + 1)[0])
            most = 1.0
        else:
            at_ends = [[_of(n, read) for read in method.read_span(prompt, n)] for n in ends]
            least, most = min(least for least, _ in at_ends), max(most for _, most in at_ends)
        spans[phase] = least, max(least, most)
    if not foreign(attention.method):
        spans.setdefault("prefill", (1.0, 1.0))  # dense attention
        spans.setdefault("decode", (1.0, 1.0))
    return spans


def _known(attention: Attention) -> list[Method]:
    """The methods of this package in a composition, with their parameters."""
    try:
        return [*composed([attention.resolve(name) for name in attention.names if _ours(name)])]
    except UsageError as error:
        what = f"{error.field[:60]} is {str(error.value)[:40]!r}"
        raise _ImpossibleError(f"{what}, which {_quoted(attention.method)} does not take") from error


def _phase(kind: type[Method]) -> Phase:
    return "prefill" if issubclass(kind, PrefillMethod) else "decode"


def _of(cached: int, read: float) -> float:
    """The density of a step: at least one position is read, at most all of them."""
    return min(max(1.0, read), cached) / cached


def _is_unmeasured(engine: str) -> bool:
    """Whether an engine's answers come from elsewhere, without measurements."""
    return engine in ENGINES and ENGINES.get(engine).elsewhere and not _measures(engine)


def _measures(engine: str) -> bool:
    return engine in ENGINES and ENGINES.get(engine).measures_sparsity


def _check_phases(settings: PublicSettings, measured: Phases, written: int | None) -> None:
    """Check that a phase in which a method acts was measured, if it occurred: prefill gives the first token."""
    for name in settings.attention.names if _measures(settings.engine.name) else ():
        phase = _phase(METHODS.get(name)) if _ours(name) else None
        if phase is not None and phase not in measured and (phase == "prefill" or (written or 0) > 2):
            raise _ImpossibleError(f"has no {phase} sparsity, and {name} acts there")


def _check_sparsity(
    attention: Attention, phase: Phase, sparsity: float, span: Span, prompt: int, ends: tuple[int, int]
) -> None:
    least, most = span
    where = f"a prompt of {prompt:,} tokens" if phase == "prefill" else f"steps at {ends[0]:,} to {ends[1]:,} tokens"
    what = f"claims {phase} sparsity {sparsity:.6g}, and {_label(attention)}"
    if sparsity > 1 - least + _HAIR:
        raise _ImpossibleError(f"{what} leaves out {1 - least:.6g} of {where} at most")
    if most < 1:
        # A preempted request counts the beginning of its prompt, the denser part, twice.
        most = min(1.5 * most, (1 + most) / 2) if phase == "prefill" else most
    if sparsity < 1 - most - _HAIR:
        raise _ImpossibleError(f"{what} leaves out {1 - most:.6g} of {where} at least")


def _label(attention: Attention) -> str:
    sparsity = attention.sparsity
    return _quoted(attention.method) + ("" if sparsity is None or sparsity == 0 else f" at {sparsity:.4g}")


def _quoted(name: str) -> str:
    return name if len(name) <= 60 else name[:57] + "..."


def _check_spread(measured: Phases, spread: Phases | None) -> None:
    """Numbers in [0, 1] with a mean m have a standard deviation of at most the root of m (1 - m)."""
    for phase, deviation in (spread or {}).items():
        if phase not in measured:
            raise _ImpossibleError(f"has the spread of a {phase} sparsity that was not measured")
        most = math.sqrt(max(0.0, measured[phase] * (1 - measured[phase])))
        if deviation > most + 1e-3:  # the root amplifies rounding of a mean near 0 or 1
            raise _ImpossibleError(
                f"claims {phase} sparsity {measured[phase]:.4g} with a spread of {deviation:.4g}, which is "
                f"{most:.4g} at most"
            )


def _check_bytes(settings: PublicSettings, measured: Phases, read: float | None, ends: tuple[int, int]) -> None:
    """Check the bytes of keys and values that a step read: its share of the cache, at 1 to 4 bytes per number.

    Layers with a sliding window do not count, and a shape need not include all of them; with more GPUs than KV heads,
    each has one.
    """
    if read is None:
        return
    if "decode" not in measured:
        raise _ImpossibleError("claims bytes read by a step, and no step was measured")
    shape = settings.model.shape
    if shape is None:
        return
    ranks = max(_ranks(settings.engine.arguments), _ranks(settings.engine.details))
    layers = max(1, shape.layers - shape.windowed_layers)
    numbers = (1 - measured["decode"]) * layers * 2 * shape.kv_heads * shape.head_size
    least = numbers * ends[0] / 8
    most = 4 * numbers * ends[1] * max(1.0, ranks / shape.kv_heads)
    if not least * 0.99 <= read <= most * 1.01 + 1:
        raise _ImpossibleError(
            f"claims {read:.4g} bytes read by a step, and decode sparsity {measured['decode']:.4g} leaves {least:.4g} "
            f"to {most:.4g} to read"
        )


def _ranks(arguments: JsonObject) -> int:
    ranks = arguments.get("tensor_parallel_size", 1)
    return ranks if isinstance(ranks, int) and 1 <= ranks <= 1024 else 1
