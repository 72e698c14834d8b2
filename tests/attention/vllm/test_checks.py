"""Guards what is refused before vLLM starts: with the field, the value, and the flag that helps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from transformers import Gemma4TextConfig, LlamaConfig

from sparse_tasks.attention.attention import Attention as Methods
from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.calibrated import CalibratedMethod
from sparse_tasks.attention.vllm import checks
from sparse_tasks.attention.vllm.arguments import CONNECTOR, Offer
from sparse_tasks.attention.vllm.checks import (
    check_attributes,
    check_cache,
    check_config,
    check_layer,
)
from sparse_tasks.core.errors import UsageError
from tests.methods import SERVED

Change = Callable[[SimpleNamespace], None]


def config() -> SimpleNamespace:
    """vLLM's, of a plain model, as much of it as is read."""
    return SimpleNamespace(
        model_config=SimpleNamespace(
            model="acme/small",
            hf_text_config=SimpleNamespace(
                model_type="qwen2",
                num_hidden_layers=2,
                position_embedding_type=None,
                head_dim=128,
                rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            ),
            use_mla=False,
            is_encoder_decoder=False,
            is_attention_free=False,
            is_hybrid=False,
            is_mm_prefix_lm=False,
            get_head_size=lambda: 128,
        ),
        cache_config=SimpleNamespace(
            enable_prefix_caching=False,
            user_specified_block_size=False,
            block_size=16,
            cache_dtype="auto",
            sliding_window=None,
        ),
        attention_config=SimpleNamespace(backend=SimpleNamespace(name="CUSTOM")),
        compilation_config=SimpleNamespace(cudagraph_mode=mode("PIECEWISE", full=False)),
        device_config=SimpleNamespace(device_type="cuda"),
        parallel_config=SimpleNamespace(
            pipeline_parallel_size=1,
            decode_context_parallel_size=1,
            prefill_context_parallel_size=1,
            tensor_parallel_size=4,
            enable_dbo=False,
        ),
        scheduler_config=SimpleNamespace(runner_type="generate"),
        speculative_config=None,
        kv_transfer_config=None,
    )


def mode(name: str, *, full: bool) -> SimpleNamespace:
    return SimpleNamespace(name=name, has_full_cudagraphs=lambda: full)


def group(heads: int | None, *, no_op: bool = False) -> SimpleNamespace:
    """A layer of Nemotron-NAS."""
    return SimpleNamespace(attention=SimpleNamespace(n_heads_in_group=heads, no_op=no_op))


def swapped(kinds: list[str]) -> SimpleNamespace:
    """Heads differ, but not among layers that see all keys."""
    return SimpleNamespace(num_hidden_layers=2, layer_types=kinds, num_attention_heads_per_layer=[8, 4])


def gemma_4(size: int, **settings: Any) -> Gemma4TextConfig:
    """Heads of layers that see all keys have this size."""
    return Gemma4TextConfig(num_hidden_layers=6, global_head_dim=size, **settings)


def setting(path: str, value: object) -> Change:
    """Sets ``part.part.name`` of a configuration."""

    def change(made: SimpleNamespace) -> None:
        *parts, name = path.split(".")
        target = made
        for part in parts:
            target = getattr(target, part)
        setattr(target, name, value)

    return change


@pytest.mark.parametrize("name", ["dense", *SERVED, "vertical_slash+quest"])
def test_a_plain_model_runs_every_method(name: str) -> None:
    check_config(config(), Methods.parse(name))


@pytest.mark.parametrize("name", [name for name in SERVED if issubclass(METHODS.get(name), CalibratedMethod)])
def test_a_calibration_does_not_go_with_a_part_of_the_heads(name: str) -> None:
    calibrated = Methods.parse(name, sparsity=0.5, arguments={f"{name}.calibration": "nowhere.safetensors"})
    with pytest.raises(UsageError, match=f"^tensor_parallel_size: 4 .* the calibration of {name} covers all"):
        check_config(config(), calibrated)
    made = config()
    made.parallel_config.tensor_parallel_size = 1
    with pytest.raises(UsageError, match=r"^model: "):  # then it is read, for which this one has no files
        check_config(made, calibrated)


@pytest.mark.parametrize("name", [name for name in SERVED if METHODS.get(name).reads_positions])
def test_positions_have_to_be_known_to_methods_that_read_them(name: str) -> None:
    made = config()
    made.model_config.hf_text_config.model_type = "cohere"
    check_config(made, Methods.parse("quest"))
    with pytest.raises(UsageError, match=r"^model_type: 'cohere' rotates keys by position in an unsupported way"):
        check_config(made, Methods.parse(f"vertical_slash+{name}"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("cache_config.cache_dtype", "bfloat16"),
        ("cache_config.cache_dtype", "float16"),
        ("cache_config.cache_dtype", "auto"),
        ("cache_config.cache_dtype", "fp8"),
        ("cache_config.cache_dtype", "fp8_e4m3"),
        ("compilation_config.cudagraph_mode", None),
        ("compilation_config.cudagraph_mode", mode("NONE", full=False)),
        ("model_config.hf_text_config", SimpleNamespace(attn_config={"alibi": False})),
        ("model_config.hf_text_config", SimpleNamespace(attn_config=SimpleNamespace(alibi=False), alibi=False)),
        ("model_config.hf_text_config", SimpleNamespace(position_embedding_type="rope", attention_chunk_size=None)),
        ("model_config.get_head_size", lambda: 64),
        ("model_config.is_hybrid", True),
        ("model_config.rswa_window", None),
        ("attention_config.use_non_causal", False),
        ("model_config.hf_text_config.num_kv_shared_layers", 10),
        ("cache_config.kv_sharing_fast_prefill", False),
        ("model_config.hf_text_config.layer_types", ["sliding_attention", "full_attention"]),
        ("model_config.hf_text_config.num_attention_heads_per_layer", [4, 4]),
        ("model_config.hf_text_config.block_configs", [group(2), group(None, no_op=True)]),
        ("model_config.hf_text_config", swapped(["sliding_attention", "full_attention"])),
        ("model_config.hf_text_config", gemma_4(128, head_dim=512)),
    ],
)
def test_what_does_not_matter_is_let_through(path: str, value: object) -> None:
    made = config()
    setting(path, value)(made)
    check_config(made, Methods.parse("vertical_slash+quest"))


def test_a_model_need_not_know_of_everything() -> None:
    made = config()
    del made.model_config.is_mm_prefix_lm
    made.model_config.hf_text_config = SimpleNamespace()
    check_config(made, Methods.DENSE)


CUSTOM = '{"backend": "CUSTOM"}'
REFUSED: list[tuple[str, object, str, object, list[str]]] = [
    ("attention_config.backend", None, "attention_config.backend", None, [CUSTOM, "--attention-backend CUSTOM"]),
    ("attention_config.backend", SimpleNamespace(name="FLASH_ATTN"), "attention_config.backend", "FLASH_ATTN",
     [CUSTOM, "--attention-backend CUSTOM"]),
    ("cache_config.cache_dtype", "fp8_e5m2", "kv_cache_dtype", "fp8_e5m2", ["use auto", "fp8_e4m3"]),
    ("cache_config.cache_dtype", "nvfp4", "kv_cache_dtype", "nvfp4", ["use auto", "fp8_e4m3"]),
    ("cache_config.cache_dtype", "fp8_per_token_head", "kv_cache_dtype", "fp8_per_token_head", ["fp8_e4m3"]),
    ("cache_config.cache_dtype", "int8", "kv_cache_dtype", "int8", ["use auto", "fp8_e4m3"]),
    ("compilation_config.cudagraph_mode", mode("FULL_AND_PIECEWISE", full=True), "cudagraph_mode", "FULL_AND_PIECEWISE",
     ['compilation_config={"cudagraph_mode": "PIECEWISE"}', "enforce_eager=true"]),
    ("speculative_config", SimpleNamespace(method="eagle3"), "speculative_config", "eagle3", ["use ngram", "leave it"]),
    ("speculative_config", SimpleNamespace(method="ngram_gpu"), "speculative_config", "ngram_gpu", ["use ngram"]),
    ("kv_transfer_config", SimpleNamespace(), "kv_transfer_config", "given", ["leave it out"]),
    ("parallel_config.pipeline_parallel_size", 2, "pipeline_parallel_size", 2, ["use tensor_parallel_size instead"]),
    ("parallel_config.decode_context_parallel_size", 2, "decode_context_parallel_size", 2, ["tensor_parallel_size"]),
    ("parallel_config.prefill_context_parallel_size", 4, "prefill_context_parallel_size", 4, ["tensor_parallel_size"]),
    ("parallel_config.enable_dbo", True, "enable_dbo", True, ["leave it out"]),
    ("model_config.use_mla", True, "model", "acme/small", ["MLA", "CPUs without AMX", "--engine transformers"]),
    ("model_config.is_encoder_decoder", True, "model", "acme/small", ["encoder"]),
    ("scheduler_config.runner_type", "pooling", "model", "acme/small", ["pools"]),
    ("model_config.is_attention_free", True, "model", "acme/small", ["has no attention"]),
    ("model_config.is_mm_prefix_lm", True, "model", "acme/small",
     ["both directions", "language_model_only=true", "limit_mm_per_prompt"]),
    ("model_config.hf_text_config.prefix_lm", True, "model", "acme/small", ["both directions within a prompt"]),
    ("model_config.hf_text_config.prefix_lm", False, "model", "acme/small", ["both directions within a prompt"]),
    ("attention_config.use_non_causal", True, "model", "acme/small", ["not causal"]),
    ("model_config.rswa_window", 512, "model", "acme/small", ["rswa_window"]),
    ("cache_config.kv_sharing_fast_prefill", True, "model", "acme/small", ["kv_sharing_fast_prefill"]),
    ("cache_config.sliding_window", 4096, "model", "acme/small", ["sliding window in every layer"]),
    ("model_config.hf_text_config.layer_types", ["sliding_attention"] * 2, "model", "acme/small",
     ["sliding window in every layer"]),
    ("model_config.hf_text_config.num_attention_heads_per_layer", [8, 4], "model", "acme/small", ["different heads"]),
    ("model_config.hf_text_config.num_key_value_heads", [2, 4], "model", "acme/small", ["different heads"]),
    ("model_config.hf_text_config.block_configs", [group(2), group(4)], "model", "acme/small", ["different heads"]),
    ("model_config.hf_text_config", LlamaConfig(num_hidden_layers=2, per_layer_config={1: {"num_key_value_heads": 4}}),
     "model", "acme/small", ["different heads"]),
    ("model_config.hf_text_config", gemma_4(512), "head_size", 512, ["layers that see all keys", "a CPU takes any"]),
    ("model_config.hf_text_config.attention_chunk_size", 8192, "model", "acme/small", ["chunks"]),
    ("model_config.hf_text_config.model_type", "bloom", "model", "acme/small", ["ALiBi"]),
    ("model_config.hf_text_config.alibi", True, "model", "acme/small", ["ALiBi"]),
    ("model_config.hf_text_config.attn_config", {"alibi": True}, "model", "acme/small", ["ALiBi"]),
    ("model_config.hf_text_config.attn_config", SimpleNamespace(alibi=True), "model", "acme/small", ["ALiBi"]),
    ("model_config.hf_text_config.position_embedding_type", "alibi", "model", "acme/small", ["ALiBi"]),
    ("model_config.get_head_size", lambda: 88, "head_size", 88, ["a multiple of 16 up to 256"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "field", "named", "words"),
    REFUSED,
    ids=[f"{number}-{path}" for number, (path, *_) in enumerate(REFUSED)],
)
def test_what_does_not_go_together_is_refused(
    path: str, value: object, field: str, named: object, words: list[str]
) -> None:
    """Also where no method is asked for: the backend is the same."""
    made = config()
    setting(path, value)(made)
    for attention in (Methods.DENSE, Methods.parse("vertical_slash+quest")):
        with pytest.raises(UsageError) as error:
            check_config(made, attention)
        assert (error.value.field, error.value.value) == (field, named)
        assert len(str(error.value).splitlines()) == 1
        for word in words:
            assert word in error.value.remedy
        if field == "model":
            assert "choose another model, or --attention dense" in error.value.remedy


@pytest.mark.parametrize(("path", "value"), [("hf_text_config", gemma_4(512)), ("get_head_size", lambda: 88)])
def test_twins_take_heads_of_any_size(path: str, value: object) -> None:
    made = config()
    made.device_config.device_type = "cpu"
    setattr(made.model_config, path, value)
    check_config(made, Methods.parse("vertical_slash+quest"))


def test_a_connector_is_ours_where_workers_say_what_to_free_and_refused_elsewhere() -> None:
    agreed, by_place = (Offer(Methods.parse(name), free_blocks=True) for name in ("snapkv_blocks", "window_evict"))
    made = config()
    check_config(made, by_place)
    with pytest.raises(UsageError, match=r"^free_blocks: True with snapkv_blocks needs kv_transfer_config={.*Freeing"):
        check_config(made, agreed)
    made.kv_transfer_config = SimpleNamespace(**CONNECTOR)
    check_config(made, agreed)
    for offer in (by_place, Offer(Methods.parse("snapkv_blocks"))):
        with pytest.raises(UsageError, match=r"^kv_transfer_config: 'given' brings keys"):
            check_config(made, offer)
    made.kv_transfer_config = SimpleNamespace(**CONNECTOR | {"kv_role": "kv_both"})
    with pytest.raises(UsageError, match=r"^kv_transfer_config: 'given' brings keys"):
        check_config(made, agreed)


@pytest.mark.parametrize("name", ["dense", *SERVED])
@pytest.mark.parametrize(
    ("setting_of", "value", "words"),
    [
        ("model_type", "gpt_oss", "attention sinks"),
        ("model_type", "granite_swa", "attention sinks"),
        ("attention_sinks", True, "attention sinks"),
        ("attn_logit_softcapping", 50.0, "a soft cap of its scores"),
    ],
)
def test_methods_that_do_not_go_with_a_models_softmax_are_refused_by_name(
    setting_of: str, value: object, words: str, name: str
) -> None:
    made = config()
    setting(f"model_config.hf_text_config.{setting_of}", value)(made)
    refused = f"^attention: '{name}' does not go with a model that has {words}: "
    if name == "dense" or METHODS.get(name).any_softmax:
        if name == "dense" or not METHODS.get(name).reads_positions or value != "granite_swa":
            check_config(made, Methods.parse(name))
            return
        refused = f"^model_type: '{value}' rotates keys by position in an unsupported way"
    with pytest.raises(UsageError, match=refused):
        check_config(made, Methods.parse(name))


@pytest.mark.parametrize("name", ["dense", *SERVED])
def test_speculation_by_ngrams_is_refused_where_rejected_tokens_leave_a_trace(name: str) -> None:
    made = config()
    made.speculative_config = SimpleNamespace(method="ngram")
    with pytest.raises(UsageError, match="'ngram' is supported only in vLLM's CPU build; leave it out"):
        check_config(made, Methods.parse(name))
    made.device_config.device_type = "cpu"
    if name == "dense" or not getattr(METHODS.get(name), "each_step", False):
        check_config(made, Methods.parse(name))
    else:
        with pytest.raises(UsageError, match=f"does not go with {name}, which at each step drops"):
            check_config(made, Methods.parse(name))
    made.model_config.is_hybrid = True
    with pytest.raises(UsageError, match="other kinds of layers beside attention; leave it out") as error:
        check_config(made, Methods.parse(name))
    assert (error.value.field, error.value.value) == ("speculative_config", "ngram")


@pytest.mark.parametrize("name", ["dense", *SERVED])
def test_latents_are_decoded_by_methods_of_decoding_on_a_cpu_without_amx(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    monkeypatch.setattr(checks, "find_spec", lambda name: name)
    made = config()
    made.device_config.device_type = "cpu"
    made.model_config.use_mla, made.model_config.get_head_size = True, lambda: 576
    with pytest.raises(UsageError, match="plain rotary positions, which vLLM's CPU build computes incorrectly"):
        check_config(made, Methods.parse(name))
    made.model_config.hf_text_config.rope_parameters = {"rope_type": "yarn"}
    if name == "dense" or METHODS.get(name).phase == "decode":
        check_config(made, Methods.parse(name))
    else:
        with pytest.raises(
            UsageError, match=f"^attention: '{name}' chooses while a prompt is read, .* choose a decoding method"
        ):
            check_config(made, Methods.parse(name))
    made.speculative_config = SimpleNamespace(method="ngram")
    with pytest.raises(UsageError, match=r"speculative_config: 'ngram' decodes several|attention: "):
        check_config(made, Methods.parse(name))
    made.model_config.hf_text_config.index_topk = 2048
    with pytest.raises(UsageError, match="selects keys with its own indexer"):
        check_config(made, Methods.parse(name))
    del made.model_config.hf_text_config.index_topk
    monkeypatch.setattr(checks, "find_spec", lambda name: None)  # vLLM 0.26
    with pytest.raises(UsageError, match="CPUs without AMX"):
        check_config(made, Methods.parse(name))
    monkeypatch.setattr(checks, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_tile": True})
    with pytest.raises(UsageError, match="CPUs without AMX"):
        check_config(made, Methods.parse(name))


@pytest.mark.parametrize("name", SERVED)
def test_prefix_caching_is_refused_where_a_method_forbids_it(name: str) -> None:
    attention = Methods.parse(name, sparsity=0.5)
    made = config()
    made.cache_config.enable_prefix_caching = True
    method = attention.methods[0]
    if method.unshared is None:
        check_config(made, attention)
        return
    with pytest.raises(UsageError, match=f"does not go with {name}: {method.unshared}; set ") as error:
        check_config(made, attention)
    assert (error.value.field, error.value.value) == ("enable_prefix_caching", True)
    assert "enable_prefix_caching=false" in error.value.remedy
    assert "--no-enable-prefix-caching" in error.value.remedy


@pytest.mark.parametrize(
    ("hybrid", "device", "refused"), [(True, "cpu", True), (True, "cuda", False), (False, "cpu", False)]
)
def test_prefixes_of_hybrids_are_refused_where_vllm_loses_them(hybrid: bool, device: str, refused: bool) -> None:
    made = config()
    made.model_config.is_hybrid, made.device_config.device_type = hybrid, device
    check_config(made, Methods.DENSE)
    made.cache_config.enable_prefix_caching = True
    if not refused:
        check_config(made, Methods.DENSE)
        return
    with pytest.raises(UsageError, match="other kinds of layers beside attention; set enable_prefix") as error:
        check_config(made, Methods.DENSE)
    assert (error.value.field, error.value.value) == ("enable_prefix_caching", True)


def test_pages_have_to_fit_into_blocks_as_far_as_they_are_known() -> None:
    """Where vLLM has chosen none yet, the worker checks."""
    made = config()
    made.cache_config.block_size = None
    check_config(made, Methods.parse("quest"))
    made.cache_config.block_size = 24
    check_config(made, Methods.parse("quest", arguments={"page": 8}))
    made.model_config.is_hybrid = True
    check_config(made, Methods.parse("vertical_slash+quest"))  # vLLM makes them as large as a state
    made.model_config.is_hybrid = False
    with pytest.raises(UsageError, match="does not divide vLLM's block size, 24") as error:
        check_config(made, Methods.parse("vertical_slash+quest"))
    assert (error.value.field, error.value.value) == ("quest.page", 16)
    assert "--set quest.page=16" in error.value.remedy


class Attention(torch.nn.Module):
    """vLLM's layer, as much of it as is looked at."""

    def __init__(self, **other: Any) -> None:
        super().__init__()
        impl: dict[str, Any] = {
            "num_heads": 4, "head_size": 64, "scale": 0.125, "sliding_window": -1, "alibi_slopes": None, "sinks": None,
            "logits_soft_cap": 0, "kv_sharing_target_layer_name": None, "attn_type": "decoder", "may_be_sparse": True,
        }  # fmt: skip
        own: dict[str, Any] = {"layer_name": "layers.0", "head_size": 64, "head_size_v": 64, "kv_cache_dtype": "auto"}
        self.impl = SimpleNamespace(**impl | {name: value for name, value in other.items() if name in impl})
        for name, value in (own | other).items():
            setattr(self, name, value)
        self.register_buffer("_k_scale", torch.ones(2))


@pytest.mark.parametrize(
    "other",
    [{}, {"logits_soft_cap": None}, {"logits_soft_cap": 0.0}, {"sliding_window": (-1, -1)}, {"sliding_window": None},
     {"kv_cache_dtype": "bfloat16"}, {"has_sink": True}, {"sinks": torch.ones(4)}, {"logits_soft_cap": 30.0},
     {"something_new": None}],
)  # fmt: skip
def test_a_plain_layer_is_let_through(other: dict[str, Any]) -> None:
    check_layer(Attention(**other))


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("alibi_slopes", [0.5], "given"),
        ("attn_type", "encoder_only", "encoder_only"),
        ("head_size_v", 32, 32),
        ("sliding_window", 512, 512),
        ("kv_cache_dtype", "fp8_e5m2", "fp8_e5m2"),
        ("use_mm_prefix", True, True),
        ("rswa_window", 512, 512),
        ("causal", False, False),
        ("segmented_causal", True, True),
        ("something_new", 0, 0),
        ("something_new", object(), "given"),
        ("query_quant", torch.nn.Identity(), "given"),
        ("bias", torch.nn.Parameter(torch.ones(4)), "given"),
    ],
)
def test_a_layer_with_what_is_not_known_is_refused_by_name(name: str, value: object, shown: object) -> None:
    with pytest.raises(UsageError) as error:
        check_layer(Attention(**{name: value}))
    assert (error.value.field, error.value.value) == (name, shown)


class MLAAttention(Attention):
    """vLLM's layer of latent attention."""

    def __init__(self, **other: Any) -> None:
        super().__init__(**{"head_size": 576, "kv_lora_rank": 512, "use_sparse": False, "W_UV": torch.ones(2)} | other)
        del self.head_size_v


def test_a_layer_of_latent_attention_is_let_through_without_what_is_not_known() -> None:
    check_layer(MLAAttention())
    others: dict[str, Any] = {"use_sparse": True, "something_new": 0, "kv_cache_dtype": "fp8_ds_mla"}
    for name, value in others.items():
        with pytest.raises(UsageError) as error:
            check_layer(MLAAttention(**{name: value}))
        assert (error.value.field, error.value.value) == (name, value)
    with pytest.raises(UsageError, match="kv_lora_rank: 512"):  # which no other layer has
        check_layer(Attention(kv_lora_rank=512))


class QuantFP8(torch.nn.Identity):
    """vLLM's, which rounds queries where FlashAttention takes 8 bits."""


def in_8_bits(**scales: object) -> Attention:
    plain = {f"_{name}_scale": torch.tensor(0.5) for name in "qkv"} | {f"_{name}_scale_float": 0.5 for name in "qkv"}
    module = Attention(kv_cache_dtype="fp8", query_quant=QuantFP8())
    del module._k_scale
    for name, value in (plain | scales).items():
        setattr(module, name, value)
    return module


def test_a_cache_in_8_bits_has_one_scale_for_a_tensor() -> None:
    check_layer(in_8_bits())
    for other in ({"_k_scale": torch.tensor([0.5, 0.25])}, {"_v_scale_float": 1.0}):
        with pytest.raises(UsageError, match="is not one scale for a tensor") as error:
            check_layer(in_8_bits(**other))
        assert error.value.field in ("_k_scale", "_v_scale")


def test_a_layer_of_another_kind_or_backend_is_refused() -> None:
    class PrefixAttention(Attention):
        pass

    with pytest.raises(UsageError, match="model: 'PrefixAttention' is not causal attention"):
        check_layer(PrefixAttention())
    with pytest.raises(UsageError, match="model: 'SimpleNamespace' is not the plugin's"):
        check_layer(Attention(may_be_sparse=False))


@dataclass(frozen=True)
class FullAttentionSpec:
    """vLLM's, as much of it as is looked at."""

    block_size: int = 16
    head_size: int = 64
    sliding_window: int | None = None
    non_causal: bool = False
    tokens_per_state: int = 1


def test_a_cache_of_prefix_attention_is_refused() -> None:
    class RSWASpec(FullAttentionSpec):
        pass

    class MLAAttentionSpec(FullAttentionSpec):
        pass

    check_cache(FullAttentionSpec())
    check_cache(MLAAttentionSpec(head_size=576))
    with pytest.raises(UsageError, match="non_causal: True"):
        check_cache(FullAttentionSpec(non_causal=True))
    with pytest.raises(UsageError, match="tokens_per_state: 4"):
        check_cache(FullAttentionSpec(tokens_per_state=4))
    with pytest.raises(UsageError, match="model: 'RSWASpec' is not a cache"):
        check_cache(RSWASpec())


def test_arguments_that_are_not_known_are_refused_before_vllm_gets_them() -> None:
    check_attributes({"sinks": None, "chunk_lookback": None})
    with pytest.raises(UsageError, match="chunk_lookback: 4"):
        check_attributes({"chunk_lookback": 4})
