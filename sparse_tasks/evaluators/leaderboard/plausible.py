"""Whether the sparsity that a prediction claims is one that its method can reach, by what was asked and by lengths.

What a method reads follows from its budget and from the tokens there were, but for rounding to whole pages, blocks and
tiles, and for what it reads whatever the budget: first tokens, the diagonal, the page of the current token. Nothing
here needs the methods themselves, nor torch: each has two functions of a few lines at most, that say the least and the
most it can read. They are generous where the count depends on content or on how an engine cut its work into chunks: no
honest run may be refused. What they catch is a number that belongs to another run, another method, or to none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

__all__ = ["foreign", "implausible"]

_HAIR: Final = 1e-6  # of rounded sums
_MEASURING: Final = ("vllm", "transformers")  # engines that run methods say of each answer what ran
_ELSEWHERE: Final = ("openai", "replay")
_TILE: Final = 128  # positions in a block of XAttention and FlexPrefill, and queries in the tiles of lines
_BAND: Final = 191  # keys that tiles add, at most, to the window of a query: 128 + 64 - 1
_MOST: Final = 2**40  # no parameter is larger

Span: TypeAlias = tuple[float, float]
"""The least and the most that can be read."""


class _ImpossibleError(Exception):
    """What is wrong, in words."""


@dataclass(frozen=True)
class _Asked:
    """A method as a run asked for it.

    Attributes:
        name: Of the method.
        arguments: Its parameters, as ``run.json`` has them: values or their texts.
        sparsity: What was asked for, in [0, 1); None where budgets were given instead, or nothing.
    """

    name: str
    arguments: Mapping[str, Any]
    sparsity: float | None

    def number(self, name: str, default: float, low: float = 0.0, high: float = _MOST) -> float:
        """A parameter."""
        value = self.arguments.get(name)
        if value is None:
            return default
        try:
            number = math.nan if isinstance(value, bool) else float(str(value)[:40])
        except ValueError:
            number = math.nan
        if not low <= number <= high:  # not true of NaN either
            raise _ImpossibleError(f"{self.name}.{name} is {str(value)[:40]!r}, which it does not take")
        return number


# --- prompts: shares of the interactions of dense causal attention -------------------------------------------


def _share(length: float, keys: float) -> float:
    """The density if each query of a prompt sees so many keys, or as many as there are."""
    seen = min(keys, length)
    return (seen * (seen + 1) / 2 + (length - seen) * seen) / (length * (length + 1) / 2)


def _vertical_slash(asked: _Asked, length: int) -> Span:
    sinks, recent = asked.number("sinks", 4), asked.number("recent", 64, 1)
    if asked.sparsity is None:
        verticals = max(asked.number("verticals", 1024, 1), sinks)
        slashes = max(asked.number("slashes", 1024, 1), recent)
        if max(verticals, slashes) >= length:
            return 1.0, 1.0
        # The first tokens and the shortest distances are always seen; a slash alone takes tiles of 192 keys.
        return _share(length, min(recent, slashes)), _share(length, verticals + (_BAND + 1) * slashes)
    density = 1 - asked.sparsity
    # Its lists have room for thrice what lines of middling length need; all but short lines fill the density.
    return density / 2 - 4 / length, density + 2 * (_TILE + 2 + sinks) / length


def _block_sparse(asked: _Asked, length: int) -> Span:
    block = asked.number("block", 128, 16, 128)
    gathered = 64 / block if block < 64 else 1  # tiles of 64 queries compute what any of their blocks reads
    if asked.sparsity is None:
        top_k = asked.number("top_k", 100, 2)
        return _share(length, (top_k - 1) * block + 1), gathered * _share(length, top_k * block)
    # The first block and the diagonal are always read; the nearest whole number of blocks is half a block off.
    density, half = 1 - asked.sparsity, block / length
    least = max(density - half, _share(length, block + 1))
    return least, gathered * max(density + half, _share(length, 2 * block))


def _adaptive_blocks(asked: _Asked, length: int) -> Span:
    if asked.sparsity is None:
        return _share(length, _TILE + 1), 1.0  # the first block and the diagonal
    density = 1 - asked.sparsity
    # Off by half a block of each call, and the diagonal is always read.
    return density - _TILE / length, density + 2.1 * _TILE / length


def _streaming_llm(asked: _Asked, length: int) -> Span:
    sinks = asked.number("sinks", 4)
    if asked.sparsity is None:
        keys = sinks + asked.number("window", 1024, 1)
        # Where a prefix comes from the cache, only the last queries count: they see as much of more keys.
        return min(1.0, keys / length), _share(length, keys + _BAND)
    density = 1 - asked.sparsity
    return density - 1 / length, max(density + 1 / length, _share(length, sinks + 1)) + 2 * _BAND / length


def _tri_shape(asked: _Asked, length: int) -> Span:
    if asked.sparsity is not None:
        return _streaming_llm(asked, length)
    least, most = _streaming_llm(asked, length)
    return least, most + 2 * asked.number("last", 100) / length


# --- steps: positions read of those cached --------------------------------------------------------------------


def _quest(asked: _Asked, prompt: int, cached: int) -> Span:
    page = asked.number("page", 16, 1)
    if asked.sparsity is None:
        pages = max(1, asked.number("token_budget", 1024, 1) // page)
        return (pages - 1) * page + 1, pages * page  # the last page may be a part, and is always read
    wanted = (1 - asked.sparsity) * cached
    return wanted - page / 2, max(page, wanted + page / 2)


def _sparq(asked: _Asked, prompt: int, cached: int) -> Span:
    if asked.sparsity is None:
        budget = asked.number("token_budget", 128, 1)
        return budget, budget
    wanted = (1 - asked.sparsity) * cached
    return wanted - 0.5, wanted + 0.5


def _twilight(asked: _Asked, prompt: int, cached: int) -> Span:
    page, base = asked.number("page", 16, 1), asked.number("base", 0.25, 0.01, 1)
    if asked.sparsity is None:
        return 1, max(page, base * cached + page / 2)  # of the pages that Quest takes first
    wanted = (1 - asked.sparsity) * cached
    first = max(base, min(1.0, 2 * (1 - asked.sparsity))) * cached - page / 2
    return min(wanted - 0.5, first), wanted + 0.5


def _budget(asked: _Asked, prompt: int) -> float:
    """How many tokens a KV head may keep, on average over heads and layers."""
    if asked.sparsity is None:
        return asked.number("capacity", 1024, 1)
    return max(1, math.floor(round(prompt * (1 - asked.sparsity), 6)))


def _kept(asked: _Asked, prompt: int, cached: int) -> Span:
    read = min(prompt, _budget(asked, prompt)) + cached - prompt  # what was written since stays
    return read - 1, read + 1


def _kept_each_step(asked: _Asked, prompt: int, cached: int) -> Span:
    read = min(cached - 1, _budget(asked, prompt)) + 1  # a step sees its own token beside those that stayed
    return read - 1, read + 1


_PREFILL: Final[Mapping[str, Callable[[_Asked, int], Span]]] = {
    "vertical_slash": _vertical_slash,
    "block_sparse": _block_sparse,
    "flexprefill": _adaptive_blocks,
    "xattention": _adaptive_blocks,
    "streaming_llm": _streaming_llm,
    "tri_shape": _tri_shape,
}
"""By method, and tokens of the prompt: density of a prompt."""

_DECODE: Final[Mapping[str, Callable[[_Asked, int, int], Span]]] = {
    "quest": _quest,
    "sparq": _sparq,
    "twilight": _twilight,
    "snapkv": _kept,
    "ada_snapkv": _kept,
    "pyramidkv": _kept,
    "knorm": _kept,
    "tova": _kept_each_step,
    "h2o": _kept_each_step,
}
"""By method, tokens of the prompt and tokens cached at a step: positions that the step reads, on average."""


# --- a prediction ---------------------------------------------------------------------------------------------


def foreign(method: str) -> list[str]:
    """The methods in a composition that are not this project's, of which only general bounds are known."""
    return [name for name in method.split("+") if name not in _PREFILL and name not in _DECODE]


def implausible(settings: Mapping[str, Any], prediction: Mapping[str, Any], row: Mapping[str, Any]) -> str | None:
    """Why a prediction cannot have run as its run says; None where it can have.

    Args:
        settings: ``run.json``: ``attention``, ``engine``, ``model`` and ``sampling`` are looked at.
        prediction: A line by ``prediction-1.0``; ``sparsity``, ``sparsity_spread``, ``kv_bytes_per_step`` and the
            numbers of tokens are looked at.
        row: The data set's row: ``input_tokens`` and ``max_new_tokens``.

    Returns:
        A sentence without its subject, the sample; it may quote what the run says.
    """
    try:
        prompt, written = _tokens(settings, prediction, row)
        measured = _measured(settings, prediction)
        if measured is None:
            return None
        ends = prompt + 1, prompt + written + 1  # tokens cached at the first step and, generously, at the last
        spans = {
            "prefill": (2 / (prompt + 1), 1.0),  # a query sees itself at least
            "decode": (1 / ends[1], 1.0),
        }
        for phase, span in _spans(settings["attention"], prompt, ends).items():
            spans[phase] = max(span[0], spans[phase][0]), min(1.0, span[1])
        _check_phases(settings, measured, prediction["output_tokens"])
        for phase, sparsity in measured.items():
            _check_sparsity(settings["attention"], phase, sparsity, spans[phase], prompt, ends)
        _check_spread(measured, prediction["sparsity_spread"])
        _check_bytes(settings, measured, prediction["kv_bytes_per_step"], ends)
    except _ImpossibleError as reason:
        return str(reason)
    return None


def _tokens(settings: Mapping[str, Any], prediction: Mapping[str, Any], row: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens of the prompt, and of what was written, or could have been; the check looks at these themselves."""
    read, written = prediction["input_tokens"], prediction["output_tokens"]
    budget = settings["sampling"]["max_new_tokens"] or row["max_new_tokens"]
    return max(1, row["input_tokens"] if read is None else read), max(1, budget if written is None else written)


def _measured(settings: Mapping[str, Any], prediction: Mapping[str, Any]) -> Mapping[str, float] | None:
    """The sparsity by phase; None where there is none, and need not be."""
    measured: Mapping[str, float] | None = prediction["sparsity"]
    method, engine = settings["attention"]["method"], settings["engine"]["name"]
    if measured is None:
        for name, what in (("sparsity_spread", "the spread of a"), ("kv_bytes_per_step", "bytes read, and no")):
            if prediction[name] is not None:
                raise _ImpossibleError(f"has {what} sparsity that was not measured")
        if method not in ("dense", "unknown") and engine in _MEASURING:
            raise _ImpossibleError(f"has no measured sparsity; {engine} measures what {_quoted(method)} leaves out")
        return None
    if method == "unknown" or engine in _ELSEWHERE:
        raise _ImpossibleError(f"has a measured sparsity, which {engine[:40]} cannot know")
    return measured


def _spans(attention: Mapping[str, Any], prompt: int, ends: tuple[int, int]) -> dict[str, Span]:
    """The least and the most density of each phase of which that is known."""
    names = [] if attention["method"] == "dense" else attention["method"].split("+")
    spans: dict[str, Span] = {}
    for name in names:
        asked = _asked(attention, name, alone=len(names) == 1)
        if name in _PREFILL:
            phase, span = "prefill", _PREFILL[name](asked, prompt)
        elif name in _DECODE:
            phase = "decode"
            at_ends = [[_of(n, read) for read in _DECODE[name](asked, prompt, n)] for n in ends]
            span = min(least for least, _ in at_ends), max(most for _, most in at_ends)
        else:
            continue
        if phase in spans:
            raise _ImpossibleError(f"is under {_quoted(attention['method'])}, two methods of one phase")
        if asked.sparsity == 0:
            span = 1.0, 1.0
        spans[phase] = span[0], max(span)
    if all(name in _PREFILL or name in _DECODE for name in names):
        for phase in ("prefill", "decode"):
            spans.setdefault(phase, (1.0, 1.0))  # dense attention leaves nothing out
    return spans


def _asked(attention: Mapping[str, Any], name: str, *, alone: bool) -> _Asked:
    """A method with its own arguments, which may go without its name where there is no other."""
    arguments: dict[str, Any] = {}
    for path, value in attention["arguments"].items():
        owner, _, parameter = path.rpartition(".")
        if owner == name or (alone and not owner):
            arguments[parameter] = value
    asked = _Asked(name, arguments, None)
    sparsity = attention["sparsity"]
    if arguments.get("sparsity") is not None:
        sparsity = asked.number("sparsity", 0.0, 0.0, math.nextafter(1.0, 0.0))
    return _Asked(name, arguments, sparsity)


def _of(cached: int, read: float) -> float:
    """The density of a step: at least one position is read, at most all of them."""
    return min(max(1.0, read), cached) / cached


def _check_phases(settings: Mapping[str, Any], measured: Mapping[str, float], written: int | None) -> None:
    """A phase in which a method acts is measured, if there was any of it: the first token comes from the prompt."""
    for name in settings["attention"]["method"].split("+") if settings["engine"]["name"] in _MEASURING else ():
        phase = "prefill" if name in _PREFILL else "decode" if name in _DECODE and (written or 0) > 2 else None
        if phase is not None and phase not in measured:
            raise _ImpossibleError(f"has no {phase} sparsity, and {name} acts there")


def _check_sparsity(
    attention: Mapping[str, Any], phase: str, sparsity: float, span: Span, prompt: int, ends: tuple[int, int]
) -> None:
    least, most = span
    where = f"a prompt of {prompt:,} tokens" if phase == "prefill" else f"steps at {ends[0]:,} to {ends[1]:,} tokens"
    what = f"claims {phase} sparsity {sparsity:.6g}, and {_label(attention)}"
    if sparsity > 1 - least + _HAIR:
        raise _ImpossibleError(f"{what} leaves out {1 - least:.6g} of {where} at most")
    if most < 1:
        # A request that was preempted has the beginning of its prompt, the denser part, counted twice.
        most = min(1.5 * most, (1 + most) / 2) if phase == "prefill" else most
    if sparsity < 1 - most - _HAIR:
        raise _ImpossibleError(f"{what} leaves out {1 - most:.6g} of {where} at least")


def _label(attention: Mapping[str, Any]) -> str:
    sparsity = attention["sparsity"]
    return _quoted(attention["method"]) + ("" if sparsity is None or sparsity == 0 else f" at {sparsity:.4g}")


def _quoted(name: str) -> str:
    return name if len(name) <= 60 else name[:57] + "..."


def _check_spread(measured: Mapping[str, float], spread: Mapping[str, float] | None) -> None:
    """Numbers in [0, 1] with a mean m have a standard deviation of at most the root of m (1 - m)."""
    for phase, deviation in (spread or {}).items():
        if phase not in measured:
            raise _ImpossibleError(f"has the spread of a {phase} sparsity that was not measured")
        most = math.sqrt(max(0.0, measured[phase] * (1 - measured[phase])))
        if deviation > most + 1e-3:  # of a mean that is a hair off 0 or 1 the root is not
            raise _ImpossibleError(
                f"claims {phase} sparsity {measured[phase]:.4g} with a spread of {deviation:.4g}, which is "
                f"{most:.4g} at most"
            )


def _check_bytes(
    settings: Mapping[str, Any], measured: Mapping[str, float], read: float | None, ends: tuple[int, int]
) -> None:
    """Bytes of keys and values that a step read: its share of what is cached, in numbers of 1 to 4 bytes.

    Layers with a sliding window do not count, and a shape need not tell of all of them; where GPUs are more than KV
    heads, each has one.
    """
    if read is None:
        return
    if "decode" not in measured:
        raise _ImpossibleError("claims bytes read by a step, and no step was measured")
    shape = settings["model"]["shape"]
    if shape is None:
        return
    engine = settings["engine"]
    ranks = max(_ranks(engine["arguments"]), _ranks(engine["details"]))
    layers = max(1, shape["layers"] - shape["windowed_layers"])
    numbers = (1 - measured["decode"]) * layers * 2 * shape["kv_heads"] * shape["head_size"]
    least = numbers * ends[0] / 8
    most = 4 * numbers * ends[1] * max(1.0, ranks / shape["kv_heads"])
    if not least * 0.99 <= read <= most * 1.01 + 1:
        raise _ImpossibleError(
            f"claims {read:.4g} bytes read by a step, and decode sparsity {measured['decode']:.4g} leaves {least:.4g} "
            f"to {most:.4g} to read"
        )


def _ranks(arguments: Mapping[str, Any]) -> int:
    ranks = arguments.get("tensor_parallel_size", 1)
    return ranks if isinstance(ranks, int) and 1 <= ranks <= 1024 else 1
