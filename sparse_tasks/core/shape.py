"""The sizes of a model that determine its cost."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta

from sparse_tasks.core.records import Record

_Size: TypeAlias = Annotated[int, Meta(ge=1, le=2**40)]
_SizeOrNone: TypeAlias = Annotated[int, Meta(ge=0, le=2**40)]


class Shape(Record, frozen=True, kw_only=True):
    """The sizes of a decoder-only transformer that determine its cost.

    Attributes:
        hidden_size: Width of the residual stream.
        layers: Transformer blocks.
        query_heads: Query heads of a layer.
        kv_heads: Key-value heads of a layer; below ``query_heads`` with grouped queries.
        head_size: Width of a head.
        mlp_size: Width of a dense MLP between its projections; 0 if every layer has only experts.
        vocabulary: Rows of the embedding.
        tied_embeddings: Whether the output layer shares the embedding's weights.
        window: Positions that a sliding-window layer attends to; None without such layers.
        windowed_layers: Layers with that window.
        experts: Experts per mixture layer; 0 without mixture layers.
        active_experts: Experts per token, without shared ones.
        expert_size: Width of an expert between its projections.
        shared_expert_size: Total width of the experts that all tokens go through.
        dense_layers: Layers with an MLP instead of experts.
    """

    hidden_size: _Size
    layers: _Size
    query_heads: _Size
    kv_heads: _Size
    head_size: _Size
    mlp_size: _SizeOrNone
    vocabulary: _Size
    tied_embeddings: bool
    window: _Size | None
    windowed_layers: _SizeOrNone
    experts: _SizeOrNone
    active_experts: _SizeOrNone
    expert_size: _SizeOrNone
    shared_expert_size: _SizeOrNone
    dense_layers: _SizeOrNone
