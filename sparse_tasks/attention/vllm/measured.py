"""What a server reports about itself and its answers, in addition to vLLM: records that it and its clients share."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Annotated, Final

from msgspec import Meta

from sparse_tasks.attention.attention import Attention
from sparse_tasks.core.records import Count, JsonObject, Measure, Natural, Phase, Phases, Record, Text

FIELD: Final = "sparse_tasks"
"""Field of an answer with its ``Measured``, and of an entry in the list of models with its ``Card``."""

PHASES: Final[tuple[Phase, ...]] = ("prefill", "decode")


class Card(Record, frozen=True, kw_only=True):
    """A server of sparse attention.

    Attributes:
        attention: The attention of requests that choose none.
        choices: Attentions that a request may name, with their sparsity where it names none.
        versions: Of ``sparse-tasks`` and ``vllm``.
        dtype: Type of the computation.
        tensor_parallel_size: GPUs that share the heads.
        layers: Layers of the model.
        sparse_layers: Layers in which methods run and sparsity is measured.
        self_test: Result of the self-test; None where it was left out.
        config: The model's configuration, as its ``config.json`` has it.
    """

    attention: Attention
    choices: list[Attention]
    versions: dict[str, str]
    dtype: Text
    tensor_parallel_size: Count
    layers: Count
    sparse_layers: Natural
    self_test: JsonObject | None
    config: JsonObject


class Measured(Record, frozen=True, kw_only=True):
    """Measurements of a request, on average over its sequences where it has several.

    Attributes:
        attention: The attention that ran.
        sparsity: Share of query-key interactions that were not computed, by phase, on average over layers and heads.
        sparsity_spread: Its standard deviation over layers and heads, by phase.
        kv_bytes_per_step: Bytes of keys and values that a decoding step read, all layers together, on average.
    """

    attention: Attention
    sparsity: Phases | None
    sparsity_spread: Annotated[dict[Phase, Measure], Meta(min_length=1)] | None
    kv_bytes_per_step: Measure | None


def worst(ranks: Sequence[JsonObject | None]) -> JsonObject | None:
    """The self-test of all ranks, by the rank that differs most; None where it was left out."""
    tested = [rank for rank in ranks if rank is not None]
    return max(tested, key=lambda rank: float(rank["difference"])) if len(tested) == len(ranks) else None


def over_ranks(parts: Sequence[JsonObject | None]) -> JsonObject:
    """Measurements of a sequence over all layers and heads of all ranks.

    Args:
        parts: What each rank has counted (see ``Counter.take``).

    Returns:
        ``sparsity``, ``sparsity_spread`` and ``kv_bytes_per_step``, as in ``Measured``.
    """
    shares = {
        phase: [1 - density for part in parts if part for density in part.get(phase, {}).get("densities", [])]
        for phase in PHASES
    }
    shares = {phase: values for phase, values in shares.items() if values}
    read = [part["decode"]["kv_bytes"] for part in parts if part and "decode" in part]
    return {
        # Rounded sums may stand a hair outside of [0, 1].
        "sparsity": {phase: min(1.0, max(0.0, fmean(values))) for phase, values in shares.items()} or None,
        "sparsity_spread": {phase: pstdev(values) for phase, values in shares.items()} or None,
        "kv_bytes_per_step": sum(read) if read else None,
    }


def mean(attention: Attention, sequences: Sequence[JsonObject]) -> Measured:
    """Measurements of a request from those of its sequences."""

    def by_phase(name: str) -> dict[Phase, float] | None:
        values = {phase: [one[name][phase] for one in sequences if phase in (one[name] or {})] for phase in PHASES}
        return {phase: fmean(each) for phase, each in values.items() if each} or None

    read = [one["kv_bytes_per_step"] for one in sequences if one["kv_bytes_per_step"] is not None]
    return Measured(
        attention=attention,
        sparsity=by_phase("sparsity"),
        sparsity_spread=by_phase("sparsity_spread"),
        kv_bytes_per_step=fmean(read) if read else None,
    )
