"""What a model costs to run, with dense and with sparse attention: a model's shape, and the paper's formulas.

Source: "The Sparse Frontier" (arXiv 2504.17768), section on cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Shape", "read_shape"]


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a decoder-only transformer that decide what it costs.

    Attributes:
        hidden_size: Width of the residual stream.
        layers: Transformer blocks.
        query_heads: Query heads of a layer.
        kv_heads: Key-value heads of a layer; below ``query_heads`` with grouped queries.
        head_size: Width of a head.
        mlp_size: Width of a dense MLP between its projections; 0 where every layer has experts alone.
        vocabulary: Rows of the embedding.
        tied_embeddings: Whether the output layer shares the embedding's weights.
        window: Positions that a layer with a sliding window sees; None where none has one.
        windowed_layers: Layers with that window.
        experts: Experts of a layer of a mixture; 0 where there is none.
        active_experts: Experts that a token goes through, those that all tokens share left out.
        expert_size: Width of an expert between its projections.
        shared_expert_size: Width, together, of the experts that all tokens go through.
        dense_layers: Layers with an MLP instead of experts; all of them where there are no experts.
    """

    hidden_size: int
    layers: int
    query_heads: int
    kv_heads: int
    head_size: int
    mlp_size: int
    vocabulary: int
    tied_embeddings: bool
    window: int | None
    windowed_layers: int
    experts: int
    active_experts: int
    expert_size: int
    shared_expert_size: int
    dense_layers: int


def read_shape(config: Mapping[str, Any]) -> Shape | None:
    """The shape that a Hugging Face ``config.json`` describes; None where it does not say enough."""
    try:
        text = config.get("text_config", config)
        hidden, heads = int(text["hidden_size"]), int(text["num_attention_heads"])
        layers = int(text["num_hidden_layers"])
        return Shape(
            hidden_size=hidden,
            layers=layers,
            query_heads=heads,
            kv_heads=int(text.get("num_key_value_heads") or heads),
            head_size=int(text.get("head_dim") or hidden // heads),
            mlp_size=int(text["intermediate_size"]),
            vocabulary=int(text["vocab_size"]),
            tied_embeddings=bool(text.get("tie_word_embeddings", False)),
            window=None,
            windowed_layers=0,
            experts=0,
            active_experts=0,
            expert_size=0,
            shared_expert_size=0,
            dense_layers=layers,
        )
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
