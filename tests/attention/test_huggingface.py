"""Guards the hook into transformers: dense is the model's own, padding is unseen, the model is left as it was.

Each method runs in ``generate`` and is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

import transformers

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.huggingface import SparseRun, check_config, sparse_attention
from sparse_tasks.attention.method import METHODS, PrefillMethod
from sparse_tasks.core.errors import UsageError
from tests.attention.hybrids import HYBRIDS

VOCABULARY = 128


def llama(**changes: Any) -> Any:
    """A random model of two layers, whose attention is not flat."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 1024,
            "initializer_range": 0.3,
            "pad_token_id": 0,
        }
        | changes
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture
def model() -> Iterator[Any]:
    """A model, which every test has to leave as it was."""
    made = llama()
    yield made
    assert made.config._attn_implementation == "sdpa"
    assert all(module.config._attn_implementation == "sdpa" for module in made.modules() if hasattr(module, "config"))


def tokens(*lengths: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Prompts padded at the left, and their mask."""
    draw = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    ids = torch.randint(1, VOCABULARY, (len(lengths), longest), generator=draw)
    mask = torch.arange(longest) >= longest - torch.tensor(lengths)[:, None]
    return ids * mask, mask.long()


def generate(model: Any, ids: Tensor, mask: Tensor, new: int = 6, **options: Any) -> tuple[Tensor, Tensor]:
    """Greedy tokens, and the logits they were chosen by, ``[new, batch, vocabulary]``."""
    out = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=None,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    return out.sequences[:, ids.shape[1] :], torch.stack(out.logits)


def test_dense_equals_the_models_own_attention(model: Any) -> None:
    ids, mask = tokens(90, 61)
    expected_tokens, expected = generate(model, ids, mask)
    with sparse_attention(model, "dense", impl="torch") as run:
        found_tokens, found = generate(model, ids, mask)
    assert torch.equal(found_tokens, expected_tokens)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for phase in ("prefill", "decode"):
        assert density(run, phase) == (1, 1)


def density(run: SparseRun, phase: str, layer: int | None = None) -> tuple[float, float]:
    """Asked and computed, of a phase that has run."""
    measured = run.density(phase, layer)
    assert measured is not None
    return pytest.approx(measured.selected, abs=1e-9), pytest.approx(measured.computed, abs=1e-9)


@pytest.mark.parametrize("name", METHODS.names())
def test_zero_sparsity_is_dense(name: str, model: Any) -> None:
    ids, mask = tokens(150)
    _, expected = generate(model, ids, mask)
    with sparse_attention(model, name, sparsity=0.0, impl="torch") as run:
        _, found = generate(model, ids, mask)
    # What evicts at each step keeps as many tokens as the prompt has, so that its second step misses one.
    same = 2 if getattr(METHODS.get(name), "each_step", False) else len(found)
    torch.testing.assert_close(found[:same], expected[:same], rtol=1e-3, atol=1e-3)
    assert density(run, "prefill")[1] == 1
    assert run.density("decode").computed == pytest.approx(1, abs=0.04)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_generates_and_is_measured(name: str, model: Any) -> None:
    ids, mask = tokens(900)
    _, expected = generate(model, ids, mask)
    with sparse_attention(model, name, sparsity=0.8, impl="torch") as run:
        written, found = generate(model, ids, mask)
    assert written.shape == (1, 6)
    assert found.isfinite().all()
    assert run.layers == [0, 1]
    sparse, dense = ("prefill", "decode") if issubclass(METHODS.get(name), PrefillMethod) else ("decode", "prefill")
    assert density(run, dense) == (1, 1)
    measured = run.density(sparse)
    assert measured is not None
    assert 0.1 < measured.computed < 0.55
    assert measured.selected <= measured.computed + 1e-9
    by_layer = [run.density(sparse, layer).computed for layer in run.layers]  # type: ignore[union-attr]
    assert sum(by_layer) / 2 == pytest.approx(measured.computed, abs=1e-9)
    difference = (found - expected).abs().amax((1, 2))
    if sparse == "decode":
        assert difference[0] < 1e-3  # the first token follows from the prompt, which is read densely
        assert difference[1] > 1e-3
    else:
        assert difference[0] > 1e-3


@pytest.mark.parametrize("name", METHODS.names())
def test_padding_is_never_seen(name: str, model: Any) -> None:
    lengths = (130, 47, 200)
    ids, mask = tokens(*lengths)
    with sparse_attention(model, name, sparsity=0.6, impl="torch") as together:
        written, logits = generate(model, ids, mask)
    interactions = 0.0
    for row, length in enumerate(lengths):
        own = ids[row : row + 1, -length:]
        with sparse_attention(model, name, sparsity=0.6, impl="torch") as alone:
            written_alone, logits_alone = generate(model, own, torch.ones_like(own))
        assert torch.equal(written[row], written_alone[0])
        torch.testing.assert_close(logits[:, row], logits_alone[:, 0], rtol=1e-3, atol=1e-3)
        interactions += alone.density("prefill").computed * math.comb(length + 1, 2)  # type: ignore[union-attr]
    whole = sum(math.comb(length + 1, 2) for length in lengths)
    assert together.density("prefill").computed == pytest.approx(interactions / whole)  # type: ignore[union-attr]


def test_quest_selects_by_a_state_that_follows_the_cache(model: Any) -> None:
    # The same pages as from summaries made anew at every step.
    ids, mask = tokens(100)
    method = METHODS.get("quest")(token_budget=32)
    with sparse_attention(model, Attention.of(method), impl="torch"):
        kept, _ = generate(model, ids, mask, new=40)

    class Forgetful(type(method)):  # type: ignore[misc]
        def new_state(self, cache: Any) -> None:
            return None

    with sparse_attention(model, Attention.of(Forgetful(token_budget=32)), impl="torch"):
        anew, _ = generate(model, ids, mask, new=40)
    assert torch.equal(kept, anew)


def test_consecutive_prompts_reset_the_state(model: Any) -> None:
    first, second = tokens(80, seed=1), tokens(95, seed=2)
    for name in ("quest", "snapkv", "h2o"):
        with sparse_attention(model, name, sparsity=0.7, impl="torch"):
            generate(model, *first)
            _, after = generate(model, *second)
        with sparse_attention(model, name, sparsity=0.7, impl="torch"):
            _, alone = generate(model, *second)
        assert torch.equal(after, alone)


def test_chunks_equal_the_whole_prompt(model: Any) -> None:
    ids, _ = tokens(150)
    for name in ("dense", "streaming_llm"):
        if name != "dense" and name not in METHODS:
            continue
        arguments = {} if name == "dense" else {"sinks": 4, "window": 64}
        with sparse_attention(model, name, arguments=arguments, impl="torch") as run:
            whole = model(ids).logits
            cache = transformers.DynamicCache(config=model.config)
            parts = [model(chunk, past_key_values=cache).logits for chunk in ids.split(64, dim=1)]
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-3, atol=1e-3)
        assert run.density("decode") is None


def test_the_models_scale_is_used() -> None:
    model = transformers.GraniteForCausalLM(
        transformers.GraniteConfig(
            vocab_size=VOCABULARY, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
            num_key_value_heads=2, attention_multiplier=0.9, initializer_range=0.3, pad_token_id=0,
        )
    ).eval()  # fmt: skip
    ids, mask = tokens(50)
    _, expected = generate(model, ids, mask)
    with sparse_attention(model, "dense", impl="torch"):
        _, found = generate(model, ids, mask)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def gemma() -> Any:
    """Every second layer has a window of 16."""
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, sliding_window=16, query_pre_attn_scalar=16, initializer_range=0.3,
        layer_types=["sliding_attention", "full_attention"] * 2, pad_token_id=0,
    )  # fmt: skip
    return transformers.Gemma3ForCausalLM(config).eval()


def exaone() -> Any:
    """Every second layer has a window of 16, and all layers have its size."""
    torch.manual_seed(0)
    config = transformers.Exaone4Config(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, sliding_window=16, initializer_range=0.3,
        layer_types=["sliding_attention", "full_attention"] * 2, pad_token_id=0,
    )  # fmt: skip
    return transformers.Exaone4ForCausalLM(config).eval()


@pytest.mark.parametrize("make", [gemma, exaone])
def test_sliding_window_layers_are_unchanged(make: Callable[[], Any]) -> None:
    model = make()
    ids, mask = tokens(90, 55)
    _, expected = generate(model, ids, mask)
    with sparse_attention(model, "dense", impl="torch") as run:
        _, found = generate(model, ids, mask)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert run.layers == [1, 3]
    with sparse_attention(model, "pyramidkv", sparsity=0.7, impl="torch") as run:
        generate(model, ids, mask)
    first, last = (run.density("decode", layer).computed for layer in run.layers)  # type: ignore[union-attr]
    assert first > 2 * last


@pytest.mark.parametrize(
    "name",
    [name if name in ("Qwen3Next", "Lfm2") else pytest.param(name, marks=pytest.mark.nightly) for name in HYBRIDS],
)
def test_hybrids_are_sparse_only_in_their_attention(name: str) -> None:
    torch.manual_seed(0)
    config, settings, sparse = HYBRIDS[name]
    given = settings | {"vocab_size": VOCABULARY, "pad_token_id": 0, "initializer_range": 0.1}
    model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, config)(**given)).eval()
    check_config(name, model.config)
    ids, mask = tokens(160, 97)
    expected_tokens, expected = generate(model, ids, mask)
    with sparse_attention(model, "dense", impl="torch") as run:
        found_tokens, found = generate(model, ids, mask)
    assert torch.equal(found_tokens, expected_tokens)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with sparse_attention(model, "tri_shape+quest", sparsity=0.5, impl="torch") as run:
        _, found = generate(model, ids, mask)
    assert len(run.layers) == sparse
    assert run.density("decode").computed == pytest.approx(0.5, abs=0.05)  # type: ignore[union-attr]
    assert not torch.allclose(found, expected, rtol=1e-2, atol=1e-2)


def test_model_is_left_as_it_was_after_an_exception(model: Any) -> None:
    ids, mask = tokens(40)
    expected = model(ids).logits

    def interrupted() -> None:
        with sparse_attention(model, "quest", sparsity=0.9, impl="torch"):
            generate(model, ids, mask)
            raise RuntimeError("meanwhile")

    with pytest.raises(RuntimeError, match="meanwhile"):
        interrupted()
    assert torch.equal(model(ids).logits, expected)
    with sparse_attention(model, "dense", impl="torch"):  # and it can be entered again
        pass


def test_two_methods_compose(model: Any) -> None:
    name = next((n for n in METHODS.names() if issubclass(METHODS.get(n), PrefillMethod)), None)
    if name is None:
        pytest.skip("no method for prefill is registered")
    for second in ("quest", "snapkv"):
        with sparse_attention(model, f"{name}+{second}", sparsity=0.7, impl="torch") as run:
            generate(model, *tokens(400))
        assert run.density("prefill").computed < 0.7  # type: ignore[union-attr]
        assert run.density("decode").computed < 0.5  # type: ignore[union-attr]


def test_unsupported_use_is_refused(model: Any) -> None:
    ids, mask = tokens(40)

    def refused(name: str, words: str, call: Any) -> None:
        with pytest.raises(UsageError, match=words), sparse_attention(model, name, impl="torch"):
            call()

    hole = mask.clone()
    hole[0, 7] = 0
    refused("quest", "attention_mask", lambda: model(ids, attention_mask=hole))
    refused("quest", "attention_mask", lambda: model(ids, attention_mask=torch.ones(1, 1, 40, 40, dtype=torch.bool)))
    refused("quest", "dynamic", lambda: generate(model, ids, mask, cache_implementation="static"))
    cache = model(ids, use_cache=True).past_key_values
    refused("snapkv", "have not all been read", lambda: model(ids[:, :1], past_key_values=cache))
    refused("quest", "in another block", lambda: sparse_attention(model, "dense").__enter__())
    with pytest.raises(UsageError, match="did you mean 'quest'"), sparse_attention(model, "quets"):
        pass
    with pytest.raises(UsageError, match="parameters already"), sparse_attention(model, Attention.DENSE, sparsity=0.5):
        pass
    with pytest.raises(UsageError, match="is not a model"), sparse_attention("llama", "dense"):
        pytest.fail("a block without a model")
    with pytest.raises(UsageError, match="no layer"), sparse_attention(torch.nn.Linear(2, 2), "dense"):
        pass
    with sparse_attention(model, "dense", impl="torch") as run, pytest.raises(UsageError, match="prefill, decode"):
        run.density("evict")


def test_decode_methods_accept_a_filled_cache(model: Any) -> None:
    ids, _ = tokens(40)
    expected = model(ids).logits[:, -1]
    cache = model(ids[:, :-1], use_cache=True).past_key_values
    with sparse_attention(model, "quest", sparsity=0.0, impl="torch"):
        found = model(ids[:, -1:], past_key_values=cache).logits[:, -1]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_beams_that_move_are_noticed(model: Any) -> None:
    ids, mask = tokens(40)
    with pytest.raises(UsageError, match="have not all been read"), sparse_attention(model, "snapkv", impl="torch"):
        generate(model, ids, mask, new=20, num_beams=4)


SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 16, "pad_token_id": 0,
    "layer_types": ["sliding_attention", "full_attention"], "initializer_range": 0.5, "attn_implementation": "eager",
}  # fmt: skip
OTHER_SOFTMAXES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma2": ("Gemma2", {"attn_logit_softcapping": 1.5}),  # most of its scores are above that
    "vaultgemma": ("VaultGemma", {"attn_logit_softcapping": 1.5}),
    "gpt_oss": ("GptOss", {"num_local_experts": 2, "num_experts_per_tok": 1}),
    "granite_swa": ("GraniteSWA", {"attention_multiplier": 0.25}),
    "granitemoe_swa": ("GraniteMoeSWA", {"attention_multiplier": 0.25, "num_local_experts": 2,
                                         "num_experts_per_tok": 1}),
}  # fmt: skip


def of_another_softmax(kind: str) -> Any:
    torch.manual_seed(0)
    name, changes = OTHER_SOFTMAXES[kind]
    if not hasattr(transformers, f"{name}Config"):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    config = getattr(transformers, f"{name}Config")(**SMALL | changes)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    for module in model.modules():
        if hasattr(module, "sinks"):
            module.sinks.data = torch.tensor([2.0, -5.0, 0.5, 6.0])
    return model


@pytest.mark.parametrize("kind", OTHER_SOFTMAXES)
def test_sinks_and_caps_apply_in_layers_with_and_without_a_window(kind: str) -> None:
    model = of_another_softmax(kind)
    ids, mask = tokens(90, 61)
    expected_tokens, expected = generate(model, ids, mask)
    with sparse_attention(model, "dense", impl="torch") as run:
        found_tokens, found = generate(model, ids, mask)
    assert torch.equal(found_tokens, expected_tokens)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert run.layers == [1]
    # Without them it is another model.
    for module in model.modules():
        if hasattr(module, "sinks"):
            module.sinks.data.fill_(-1e4)
        if getattr(module, "attn_logit_softcapping", None):
            module.attn_logit_softcapping = 1e4
    _, other = generate(model, ids, mask)
    assert float((other - expected).abs().max()) > 0.1


@pytest.mark.parametrize(("name", "kind"), [*zip(METHODS.names(), cycle(["gemma2", "gpt_oss"]), strict=False)])
def test_every_method_supports_sinks_and_caps_or_is_refused_by_name(name: str, kind: str) -> None:
    model = of_another_softmax(kind)
    ids, mask = tokens(150)
    _, expected = generate(model, ids, mask)
    if not METHODS.get(name).any_softmax:
        with pytest.raises(UsageError, match=f"^attention: '{name}' "):
            check_config("acme/small", model.config, Attention.parse(name))
        with pytest.raises(UsageError, match=f"^attention: '{name}' "), sparse_attention(model, name, sparsity=0.5):
            model(ids)
        return
    check_config("acme/small", model.config, Attention.parse(name))
    with sparse_attention(model, name, sparsity=0.0, impl="torch"):
        _, found = generate(model, ids, mask)
    same = 2 if getattr(METHODS.get(name), "each_step", False) else len(found)
    torch.testing.assert_close(found[:same], expected[:same], rtol=1e-3, atol=1e-3)
    with sparse_attention(model, name, sparsity=0.7, impl="torch"):
        assert generate(model, ids, mask)[1].isfinite().all()


def test_attention_with_unknown_features_is_refused() -> None:
    """Of a model whose sinks come with more that is new."""
    model = of_another_softmax("gpt_oss")
    for module in model.modules():
        if hasattr(module, "config"):
            module.config.model_type = "gpt_oss_next"
    with pytest.raises(UsageError, match="s_aux"), sparse_attention(model, "dense", impl="torch"):
        model(tokens(20)[0])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (transformers.DeepseekV32Config(), "keys with its own indexer"),
        (transformers.MiniMaxM3VLConfig(), "keys with its own indexer"),
        (transformers.Exaone4Config(num_hidden_layers=2, layer_types=["sliding_attention"] * 2), "in every layer"),
        (transformers.DeepseekV3Config(qk_nope_head_dim=16, qk_rope_head_dim=16, v_head_dim=16), None),
        (transformers.Exaone4Config(num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"]), None),
        (transformers.LlamaConfig(), None),
    ],
)
def test_an_unsupported_config_is_refused_before_the_model_is_loaded(config: Any, words: str | None) -> None:
    if words is None:
        check_config("acme/small", config)
        return
    with pytest.raises(UsageError, match=f"model: 'acme/small' .*{words}"):
        check_config("acme/small", config)


@pytest.mark.parametrize(("kind", "words"), [("DiffLlama", "differential attention"), ("HrmText", "in cycles")])
def test_models_that_attend_repeatedly_run_methods_that_do_not_evict(kind: str, words: str) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=4, head_dim=16, initializer_range=0.3, pad_token_id=0,
    )  # fmt: skip
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    ids, mask = tokens(60)
    _, expected = generate(model, ids, mask)
    with sparse_attention(model, "quest", sparsity=0.0, impl="torch"):
        _, found = generate(model, ids, mask)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(UsageError, match=words), sparse_attention(model, "snapkv", impl="torch"):
        pass
    assert model.config._attn_implementation == "sdpa"


def test_a_model_of_only_sliding_windows_is_refused_when_the_block_ends() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": VOCABULARY}
    config = MistralConfig(num_attention_heads=2, num_key_value_heads=1, sliding_window=8, **sizes)
    model = MistralForCausalLM(config).eval()
    ids, mask = tokens(20)
    with pytest.raises(UsageError, match="sliding window in every layer"), sparse_attention(model, "quest"):
        model(ids, attention_mask=mask)
    assert model.config._attn_implementation == "sdpa"
