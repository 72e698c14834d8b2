"""Costs of a model with dense and with sparse attention, by the formulas of the paper (arXiv 2504.17768).

docs/analyses.md has the formulas, and what is counted where the paper leaves it open. The cost of selection is defined
by each method: ``Method.index_flops`` and ``Method.index_reads``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, TypeGuard

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.method import Method
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.records import JsonObject
from sparse_tasks.core.shape import Shape

_LARGEST: Final = 2**40  # as in the schemas


# --- shapes -------------------------------------------------------------------------------------------------

_QWEN: Final = {"use_sliding_window": False, "max_window_layers": 28}
_GEMMA: Final = {"head_dim": 256, "tie_word_embeddings": True}
_GEMMA2: Final = {**_GEMMA, "num_key_value_heads": 4, "sliding_window": 4096, "sliding_window_pattern": 2}
_GEMMA3: Final = {**_GEMMA2, "num_attention_heads": 8, "vocab_size": 262208, "sliding_window_pattern": 6}
_DEFAULTS: Final[dict[str, JsonObject]] = {
    "cohere": {"tie_word_embeddings": True},
    "cohere2": {"sliding_window": 4096, "sliding_window_pattern": 4, "tie_word_embeddings": True},
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3": _GEMMA3,
    "gemma3_text": _GEMMA3,
    "gpt_oss": {"head_dim": 64, "num_key_value_heads": 8, "sliding_window": 128, "sliding_window_pattern": 2},
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "mixtral": {"num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen2": _QWEN,
    "qwen2_moe": _QWEN,
    "qwen3": {**_QWEN, "head_dim": 128},
    "qwen3_moe": _QWEN,
}
"""Defaults of transformers by model type, where config.json says nothing."""

_KNOWN: Final = frozenset((
    "bitnet", "cohere", "cohere2", "cwm", "ernie4_5", "exaone4", "flex_olmo", "gemma", "gemma2", "gemma3",
    "gemma3_text", "glm", "glm4", "glm4_moe", "glm4v_text", "gpt_oss", "granite", "granite_swa", "granitemoe",
    "granitemoe_swa", "granitemoeshared", "helium", "hyperclovax", "llama", "mellum", "minimax_m2", "ministral3",
    "mistral", "mixtral", "olmo", "olmo2", "olmo3", "olmoe", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen2_vl",
    "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text", "qwen3", "qwen3_moe", "qwen3_vl_text", "qwen3_vl_moe_text",
    "seed_oss", "smollm3", "solar_open", "stablelm", "vaultgemma",
))  # fmt: skip
"""Model types whose fields say as many parameters as transformers' modules have: the tests count them."""

_OTHER: Final = (
    "kv_lora_rank",  # multi-head latent attention: the cache has no keys and values
    *("num_kv_shared_layers", "global_head_dim", "hidden_size_per_layer_input"),  # layers that differ in their sizes
    *("block_configs", "intermediate_size_mlp", "interleave_moe_layer_step"),
    *("full_attention_interval", "hybrid_override_pattern", "attn_layer_period", "attn_layer_indices"),
    *("attn_type_list", "layers_block_type", "mamba_d_state", "ssm_cfg"),  # layers without attention
    "lambda_std_dev",  # differential attention
    "is_encoder_decoder",
)
"""Fields of models that the formulas do not describe."""


def read_shape(config: JsonObject) -> Shape | None:
    """The shape that a Hugging Face ``config.json`` describes; None where it does not say enough.

    It knows decoders of the Llama family, with all layers alike but for sliding windows and experts: Llama, Mistral,
    Qwen 2 to 3, Gemma 1 to 3, Phi-3, Cohere, gpt-oss, Mixtral, Qwen MoE, OLMoE, GLM-4.5 and more; of a model that also
    sees or hears, the ``text_config``. Sizes that a file leaves out are those that transformers takes.

    None for model types that were not compared with transformers' modules, since the same names may mean other sizes;
    for sizes that the formulas do not cover; and for values that are not numbers or exceed 2^40.

    Args:
        config: The file's content, untrusted.
    """
    try:
        outer, text = parts_of(config)
        kind = text.get("model_type", outer.get("model_type"))
        return described_shape(config) if isinstance(kind, str) and kind in _KNOWN else None
    except ValueError:
        return None


def parts_of(config: JsonObject) -> tuple[JsonObject, JsonObject]:
    """A configuration, and that of its text model, which may be the same.

    Raises:
        ValueError: One is not an object.
    """
    outer = _mapping(config)
    return outer, _mapping(outer["text_config"]) if outer.get("text_config") is not None else outer


def described_shape(config: JsonObject) -> Shape:
    """The shape that a configuration describes if its fields mean what they mean in models of the Llama family.

    Raises:
        ValueError: It does not say enough, or has fields of other models.
    """
    outer, text = parts_of(config)
    kind = text.get("model_type", outer.get("model_type"))
    given = {**(_DEFAULTS.get(kind, {}) if isinstance(kind, str) else {}), **text}
    _require(not any(given.get(name) for name in _OTHER))
    tied = next((part["tie_word_embeddings"] for part in (text, outer, given) if "tie_word_embeddings" in part), False)
    _require(isinstance(tied, bool))
    hidden, heads = _size(given, "hidden_size"), _size(given, "num_attention_heads")
    layers = _size(given, "num_hidden_layers")
    if given.get("head_dim") is None:
        _require(hidden % heads == 0)
    kv_heads = _size(given, "num_key_value_heads", heads)
    _require(heads % kv_heads == 0)
    window, windowed = _windows(given, layers)
    experts, active, size, shared, dense = _experts(given, layers)
    return Shape(
        hidden_size=hidden,
        layers=layers,
        query_heads=heads,
        kv_heads=kv_heads,
        head_size=_size(given, "head_dim", hidden // heads),
        mlp_size=_size(given, "intermediate_size") if dense else 0,
        vocabulary=_size(given, "vocab_size"),
        tied_embeddings=tied,
        window=window,
        windowed_layers=windowed,
        experts=experts,
        active_experts=active,
        expert_size=size,
        shared_expert_size=shared,
        dense_layers=dense,
    )


def _windows(given: JsonObject, layers: int) -> tuple[int | None, int]:
    """The sliding window and the number of layers that have it."""
    kinds, uses = given.get("layer_types"), given.get("use_sliding_window", True)
    _require(isinstance(uses, bool))
    if kinds is not None:
        _require(isinstance(kinds, list) and len(kinds) >= layers)
        _require(all(kind in ("full_attention", "sliding_attention") for kind in kinds[:layers]))
        windowed = kinds[:layers].count("sliding_attention")
    elif given.get("sliding_window") is None:
        windowed = 0
    elif given.get("sliding_window_pattern") is not None:
        windowed = layers - layers // _size(given, "sliding_window_pattern")  # every n-th layer has full attention
    else:
        windowed = layers - min(layers, _size(given, "max_window_layers", 0, least=0))
    if not uses or not windowed:
        return None, 0
    return _size(given, "sliding_window"), windowed


def _experts(given: JsonObject, layers: int) -> tuple[int, int, int, int, int]:
    """Experts, active experts, width of an expert, width of all shared experts, layers without experts."""
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    name = next((name for name in names if given.get(name) is not None), None)
    # A model with experts under other names would be mistaken for dense.
    other = [
        key for key in given if isinstance(key, str) and ("expert" in key or key.startswith("moe_")) and given[key]
    ]
    _require(name is not None or not other)
    experts = 0 if name is None else _size(given, name, least=0)
    mixtures = _mixtures(given, layers) if experts else 0
    if not mixtures:
        return 0, 0, 0, 0, layers
    active = _size(given, "num_experts_per_tok")
    _require(active <= experts)
    width = "intermediate_size" if given.get("moe_intermediate_size") is None else "moe_intermediate_size"
    size = _size(given, width)
    shared = _size(given, "n_shared_experts", 0, least=0) * size
    for width in ("shared_expert_intermediate_size", "shared_intermediate_size"):  # of all of them
        shared = _size(given, width, shared, least=0)
    return experts, active, size, shared, layers - mixtures


def _mixtures(given: JsonObject, layers: int) -> int:
    """Number of layers with experts."""
    kinds = given.get("mlp_layer_types")
    if kinds is not None:
        _require(isinstance(kinds, list) and len(kinds) >= layers)
        _require(all(kind in ("dense", "sparse") for kind in kinds[:layers]))
        return int(kinds[:layers].count("sparse"))
    step = _size(given, "decoder_sparse_step", 1)
    first = min(layers, _size(given, "first_k_dense_replace", 0, least=0))
    plain = [] if given.get("mlp_only_layers") is None else given["mlp_only_layers"]
    _require(given.get("moe_layer_freq") in (None, 1))
    _require(isinstance(plain, list) and all(_is_whole(layer) for layer in plain))
    without = {layer for layer in plain if first <= layer < layers and (layer + 1) % step == 0}
    return layers // step - first // step - len(without)


def _size(given: JsonObject, name: str, default: int | None = None, *, least: int = 1) -> int:
    """A whole number from ``least`` to 2^40; ``default`` where the field is missing."""
    value = default if given.get(name) is None else given[name]
    if not _is_whole(value) or not least <= value <= _LARGEST:
        raise ValueError(f"{name} is not a size")
    return value


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _mapping(value: object) -> JsonObject:
    if not isinstance(value, dict):
        raise ValueError("is not an object")
    return value


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError("is not a known shape")


# --- models -------------------------------------------------------------------------------------------------


def parameters(shape: Shape) -> int:
    """Parameters of a model, without norms and biases."""
    matrices = 1 if shape.tied_embeddings else 2
    return matrices * shape.vocabulary * shape.hidden_size + round(_block_weights(shape, shape.experts))


def attention_parameters(shape: Shape) -> int:
    """Parameters of the projections of queries, keys, values and outputs, without biases."""
    return shape.layers * _projections(shape)


def prefill_flops(shape: Shape, length: float, density: float = 1.0, batch: int = 1) -> float:
    """Floating-point operations to read prompts, without indexing.

    Args:
        shape: The model's.
        length: Tokens of a prompt, above 0.
        density: Share of the query-key interactions that are computed, in [0, 1], in layers without a window. NaN gives
            NaN.
        batch: Prompts.

    Raises:
        ValueError: An argument is out of range.
    """
    _check(length, density, batch)
    d, sparse_layers = shape.hidden_size, shape.layers - shape.dense_layers
    wide = shape.active_experts * shape.expert_size + shape.shared_expert_size
    embedding = 2 * length * d
    projections = shape.layers * 2 * length * _projections(shape)
    attention = density * _pair_flops(shape, length) + _windowed_pair_flops(shape, length)
    mlps = shape.dense_layers * (6 * length * d * shape.mlp_size + 2 * length * shape.mlp_size)
    mixtures = sparse_layers * (6 * length * d * wide + 2 * length * wide + 2 * length * d * shape.experts)
    output = 2 * length * d * shape.vocabulary
    return float(batch * (embedding + projections + attention + mlps + mixtures + output))


def attention_share(shape: Shape, length: float) -> float:
    """Share of dense prefill FLOPs that goes to query-key interactions, in layers without a window.

    It bounds what sparsity can save: a sparsity of s saves a share s of this. The paper's printed shares, 40, 68 and
    80% at 16k, 64k and 128k for Qwen2.5, include the projections of queries, keys, values and outputs, which sparse
    attention does not save; without them, they are 29, 62 and 76%.

    Raises:
        ValueError: The length is not above 0.
    """
    return _pair_flops(shape, length) / prefill_flops(shape, length)


def decode_reads(shape: Shape, length: float, density: float = 1.0, batch: int = 1) -> float:
    """Elements that a decoding step reads, of weights and of the KV cache, without indexing.

    Args:
        shape: The model's.
        length: Tokens of each sequence, above 0.
        density: Share of the cached positions that are read, in [0, 1], in layers without a window. NaN gives NaN.
        batch: Sequences.

    Raises:
        ValueError: An argument is out of range.
    """
    _check(length, density, batch)
    weights = _block_weights(shape, _experts_read(shape, batch)) + shape.hidden_size * (shape.vocabulary + 1)
    windowed = shape.windowed_layers * 2 * min(length, shape.window or 0) * shape.head_size * shape.kv_heads
    return float(weights + batch * (density * _cache(shape, length) + windowed))


def kv_share(shape: Shape, length: float, batch: int = 1) -> float:
    """Share of a dense decoding step's reads that goes to the KV cache, in layers without a window.

    Raises:
        ValueError: An argument is out of range.
    """
    return batch * _cache(shape, length) / decode_reads(shape, length, batch=batch)


def _check(length: float, density: float, batch: int) -> None:
    if not length > 0 or math.isinf(length):
        raise ValueError(f"length must be above 0, not {length}")
    if density < 0 or density > 1:
        raise ValueError(f"density must be in [0, 1], not {density}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")


def _global_layers(shape: Shape) -> int:
    return shape.layers - shape.windowed_layers


def _projections(shape: Shape) -> int:
    """Weights of a layer's projections: queries and outputs, keys and values."""
    return 2 * shape.hidden_size * (shape.query_heads + shape.kv_heads) * shape.head_size


def _block_weights(shape: Shape, experts: float) -> float:
    """Weights of all layers, of ``experts`` experts each."""
    sparse_layers = shape.layers - shape.dense_layers
    mixture = 3 * (experts * shape.expert_size + shape.shared_expert_size) + shape.experts
    mlps = shape.dense_layers * 3 * shape.mlp_size + sparse_layers * mixture
    return shape.layers * _projections(shape) + shape.hidden_size * mlps


def _experts_read(shape: Shape, batch: int) -> float:
    """Mean number of a layer's experts that a step of this many sequences reads."""
    experts, active = shape.experts, shape.active_experts
    if batch == 1 or active == experts:
        return active
    return -experts * math.expm1(batch * math.log1p(-active / experts))


def _pair_flops(shape: Shape, length: float) -> float:
    """Operations on all pairs of positions, in layers without a window."""
    return _global_layers(shape) * shape.query_heads * (4 * shape.head_size + 3) * length**2


def _windowed_pair_flops(shape: Shape, length: float) -> float:
    pairs = length**2 - max(0, length - (shape.window or 0)) ** 2
    return shape.windowed_layers * shape.query_heads * (4 * shape.head_size + 3) * pairs


def _cache(shape: Shape, length: float) -> float:
    """Elements of a sequence's keys and values, in layers without a window."""
    return _global_layers(shape) * 2 * length * shape.head_size * shape.kv_heads


# --- indexing -----------------------------------------------------------------------------------------------


def index_flops(attention: Attention, shape: Shape, length: float) -> float | None:
    """FLOPs of a model's methods to select what to compute or to keep, while a prompt is read.

    They are counted for layers without a window, a whole prompt at once, batch 1. A method at sparsity 0 is dense and
    selects nothing.

    Args:
        attention: Methods whose costs add up.
        shape: Sizes of the model.
        length: Tokens of the prompt, above 0.

    Returns:
        None where a method is unknown, has unknown parameters, or has no known cost.
    """
    return _over_layers(attention, shape, length, lambda method: method.index_flops(shape, length))


def index_reads(attention: Attention, shape: Shape, length: float) -> float | None:
    """Elements that a model's methods read to select in a decoding step. Otherwise as ``index_flops``."""
    return _over_layers(attention, shape, length, lambda method: method.index_reads(shape, length))


def _over_layers(attention: Attention, shape: Shape, length: float, cost: Callable[[Method], float]) -> float | None:
    _check(length, 1.0, 1)
    try:
        total = sum(cost(method) for method in attention.methods if method.sparsity != 0)
    except UsageError:
        return None
    return None if math.isnan(total) else float(_global_layers(shape) * total)
