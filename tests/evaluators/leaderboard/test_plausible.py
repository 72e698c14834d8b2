"""Guards what maintainers refuse: no honest measurement, and all that belong to another run or to none."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import pytest
from msgspec import UNSET, UnsetType, structs

from sparse_tasks.attention.method import METHODS, PrefillMethod
from sparse_tasks.core.parameters import parameters
from sparse_tasks.evaluators.engines.engine import ENGINES
from sparse_tasks.evaluators.leaderboard.plausible import contradiction, implausible
from sparse_tasks.evaluators.records import EngineRecord, Prediction, Shape
from tests.evaluators.example_runs import LLAMA_8B, made_settings
from tests.methods import OURS


def acts_on_prompts(method: str) -> bool:
    return issubclass(METHODS.get(method), PrefillMethod)


def budgets(method: str) -> dict[str, tuple[object, ...]]:
    """Small values for the parameters that a sparsity would set."""
    kind = METHODS.get(method)
    return {
        p.name: (0.0, 0.2, 0.9) if p.kind is float else tuple(max(int(p.low or 1), n) for n in (1, 5, 16, 100, 300))
        for p in parameters(kind)
        if p.name in kind.budgets
    }


KV_BYTES = 2 * 32 * 8 * 128 * 2  # of a token of it, in 16 bits

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")


@dataclass(frozen=True)
class Tokens:
    """Of a sample."""

    input_tokens: int
    max_new_tokens: int


def found(
    method: str,
    measured: Mapping[str, float] | None,
    *,
    sparsity: float | None = None,
    arguments: Mapping[str, Any] | None = None,
    tokens: int | None = 8192,
    written: int | None = 40,
    spread: Mapping[str, float] | None = None,
    kv_bytes: float | None = None,
    engine: str = "vllm",
    shape: Shape | None = LLAMA_8B,
    ranks: object = 1,
    compress: Literal["context"] | UnsetType = UNSET,
    nominal: bool | UnsetType = UNSET,
) -> str | None:
    """What is said of settings, or else of a prediction."""
    settings = made_settings(attention=method, sparsity=sparsity, arguments=arguments, shape=shape)
    attention = structs.replace(settings.attention, nominal=nominal)
    settings = structs.replace(settings, compress=compress, attention=attention)
    runner = EngineRecord(name=engine, version=None, arguments={"tensor_parallel_size": ranks}, details={})
    prediction = Prediction(
        id="x",
        task="ruler_vt",
        index=0,
        length=8192,
        text="",
        finish_reason=None,
        seconds_to_first_token=None,
        seconds=None,
        input_tokens=tokens,
        output_tokens=written,
        sparsity=None if measured is None else dict(measured),
        sparsity_spread=spread,
        kv_bytes_per_step=kv_bytes,
    )
    sample = Tokens(tokens or 8192, 40)
    settings = structs.replace(settings, engine=runner)
    return contradiction(settings) or implausible(settings, prediction, sample)


@pytest.mark.parametrize(
    ("method", "prefill", "decode"),
    [
        ("quest", 0.0, 0.900),
        ("twilight", 0.0, 0.900),
        ("sparq", 0.0, 0.900),
        ("vertical_slash", 0.900, 0.0),
        ("block_sparse", 0.912, 0.0),
        ("flexprefill", 0.900, 0.0),
        ("xattention", 0.900, 0.0),
        ("streaming_llm", 0.878, 0.0),
        ("tri_shape", 0.868, 0.0),
        ("snapkv", 0.0, 0.899),
        ("ada_snapkv", 0.0, 0.899),
        ("pyramidkv", 0.0, 0.899),
        ("knorm", 0.0, 0.898),
        ("h2o", 0.0, 0.900),
        ("tova", 0.0, 0.900),
        ("vertical_slash+quest", 0.900, 0.900),
    ],
)
def test_gpu_measurements_at_8k_and_090_are_accepted(method: str, prefill: float, decode: float) -> None:
    # The README's table, of three digits.
    assert found(method, {"prefill": prefill, "decode": decode}, sparsity=0.9) is None


@pytest.mark.parametrize("method", OURS)
def test_a_dense_run_under_a_methods_name_is_refused(method: str) -> None:
    for sparsity in (0.3, 0.5, 0.9, 0.95):
        for tokens in (8192, 65_536, 1_048_576):
            reason = found(method, {"prefill": 0.0, "decode": 0.0}, sparsity=sparsity, tokens=tokens)
            assert reason is not None
            assert "at least" in reason


@pytest.mark.parametrize("method", OURS)
def test_more_sparsity_than_was_asked_for_is_refused(method: str) -> None:
    phase = "prefill" if acts_on_prompts(method) else "decode"
    for sparsity, claimed in ((0.5, 0.8), (0.7, 0.9), (0.8, 0.95)):
        for tokens in (8192, 65_536, 1_048_576):
            reason = found(method, {"prefill": 0.0, "decode": 0.0, phase: claimed}, sparsity=sparsity, tokens=tokens)
            assert reason is not None
            assert "at most" in reason


@pytest.mark.parametrize("method", OURS)
def test_a_phase_in_which_a_method_does_not_act_is_dense(method: str) -> None:
    here, there = ("prefill", "decode") if acts_on_prompts(method) else ("decode", "prefill")
    assert found(method, {here: 0.9, there: 0.0}, sparsity=0.9, tokens=65_536) is None
    assert found(method, {here: 0.9, there: 0.01}, sparsity=0.9, tokens=65_536) is not None


@pytest.mark.parametrize("method", OURS)
def test_a_prompt_shorter_than_every_budget_is_dense(method: str) -> None:
    # With the methods' own budgets, of 1,024 tokens as a rule; sparq's is 128, and thresholds are shares.
    tokens = 60
    nothing = {"prefill": 0.0, "decode": 0.0}
    if method == "twilight":
        assert found(method, nothing, tokens=tokens, written=1) is not None  # Quest takes a quarter first
    else:
        assert found(method, nothing, tokens=tokens, written=1) is None
        assert found(method, nothing, tokens=tokens, written=1, sparsity=0.0) is None


def test_sparsity_zero_is_dense_attention() -> None:
    assert found("quest", {"prefill": 0.0, "decode": 0.0}, sparsity=0.0) is None
    assert found("quest", {"prefill": 0.0, "decode": 0.0009}, sparsity=0.0) is not None


def test_a_query_reads_at_least_one_key_with_any_method() -> None:
    assert found("somebody_elses", {"prefill": 0.99, "decode": 0.999}) is None
    assert found("somebody_elses", {"prefill": 1.0}) is not None
    assert found("somebody_elses", {"decode": 1.0}) is not None
    assert found("somebody_elses+quest", {"prefill": 0.7, "decode": 0.9}, sparsity=0.9) is None
    assert found("somebody_elses+quest", {"prefill": 0.7, "decode": 0.5}, sparsity=0.9) is not None


def test_budgets_in_tokens_bound_what_is_read() -> None:
    budget = {"quest.token_budget": 1024}
    assert found("quest", {"decode": 1 - 1024 / 8212}, arguments=budget) is None
    assert found("quest", {"decode": 0.95}, arguments=budget) is not None
    assert found("quest", {"decode": 0.5}, arguments=budget) is not None
    # Alone, a method's arguments go without its name, and may be texts.
    assert found("quest", {"decode": 1 - 2048 / 8212}, arguments={"token_budget": "2048"}) is None
    assert found("knorm", {"decode": 1 - (100 + 20) / 8212}, arguments={"capacity": 100}) is None


def test_a_methods_own_sparsity_takes_precedence() -> None:
    own = {"vertical_slash.sparsity": 0.5}
    assert found("vertical_slash+quest", {"prefill": 0.5, "decode": 0.9}, sparsity=0.9, arguments=own) is None
    assert found("vertical_slash+quest", {"prefill": 0.9, "decode": 0.9}, sparsity=0.9, arguments=own) is not None


@pytest.mark.parametrize("value", [0, -1, 10**30, 1e308, "x", "", "nan", True, [], {}, "9" * 1000, None])
@pytest.mark.parametrize(
    "argument", ["quest.page", "quest.token_budget", "quest.sparsity", "page", "", ".", "other.page"]
)
def test_arguments_of_any_kind_are_handled(argument: str, value: object) -> None:
    reason = found("quest", {"decode": 0.5}, arguments={argument: value})
    assert reason is None or len(reason) < 400


@pytest.mark.parametrize("method", ["+", "quest+quest", "quest+snapkv", "dense+quest", "a" * 10_000, "+quest", "\0"])
def test_names_of_any_kind_are_handled(method: str) -> None:
    reason = found(method, {"prefill": 0.0, "decode": 0.5}, sparsity=0.9)
    assert reason is None or len(reason) < 400
    if method.startswith("quest+"):
        assert reason is not None
        assert "two methods of one phase" in reason


def test_dense_attention_has_no_sparsity() -> None:
    assert found("dense", None, sparsity=0.0) is None
    assert found("dense", {"prefill": 0.0, "decode": 0.0}, sparsity=0.0) is None
    assert found("dense", {"prefill": 0.0, "decode": 0.1}, sparsity=0.0) is not None


@pytest.mark.parametrize("engine", ["openai", "replay"])
def test_external_runs_have_no_measurements(engine: str) -> None:
    assert found("unknown", None, engine=engine) is None
    assert found("unknown", {"decode": 0.5}, engine=engine) is not None
    assert found("quest", {"decode": 0.5}, sparsity=0.5, engine=engine, nominal=True) is not None
    assert found("dense", {"decode": 0.0}, engine=engine, nominal=True) is not None


def test_servers_are_checked_like_other_engines() -> None:
    """A claim that nothing measured stays refused, and replayed answers have none."""
    both = {"prefill": 0.0, "decode": 0.9}
    for engine in ("vllm", "openai"):
        assert found("quest", both, sparsity=0.9, engine=engine) is None
        assert "has no measured sparsity" in str(found("quest", None, sparsity=0.9, engine=engine))
        assert "leaves out" in str(found("quest", both | {"decode": 0.99}, sparsity=0.9, engine=engine))
        assert "has no decode sparsity" in str(found("quest", {"prefill": 0.0}, sparsity=0.9, engine=engine))
    assert "replay cannot know" in str(found("quest", both, sparsity=0.9, engine="replay"))


def test_an_engine_that_measures_must_report() -> None:
    assert found("quest", None, sparsity=0.9) is not None
    assert found("quest", None, sparsity=0.9, engine="one_of_ours") is None


def test_a_phase_in_which_a_method_acts_is_measured() -> None:
    assert found("quest", {"prefill": 0.0}, sparsity=0.9) is not None
    assert found("quest", {"prefill": 0.0}, sparsity=0.9, written=1) is None  # it comes from the prompt
    assert found("vertical_slash+quest", {"decode": 0.9}, sparsity=0.9) is not None
    assert found("quest", {"prefill": 0.0}, sparsity=0.9, engine="one_of_ours") is None


def test_missing_measurements_have_no_spread_and_no_bytes() -> None:
    assert found("dense", None, spread={"decode": 0.1}) is not None
    assert found("dense", None, kv_bytes=1e9) is not None
    assert found("vertical_slash", {"prefill": 0.9}, sparsity=0.9, written=1, kv_bytes=1e9) is not None
    assert found("vertical_slash", {"prefill": 0.9}, sparsity=0.9, written=1, spread={"decode": 0.1}) is not None


def test_the_spread_of_numbers_up_to_one_is_bounded_by_their_mean() -> None:
    assert found("quest", {"decode": 0.9}, sparsity=0.9, spread={"decode": 0.3}) is None
    assert found("quest", {"decode": 0.9}, sparsity=0.9, spread={"decode": 0.31}) is not None


def test_bytes_match_the_sparsity_and_the_models_shape() -> None:
    honest = 0.1 * 8212 * KV_BYTES
    assert found("quest", {"decode": 0.9}, sparsity=0.9, kv_bytes=honest) is None
    assert found("quest", {"decode": 0.9}, sparsity=0.9, kv_bytes=2 * honest) is None  # 32 bits
    assert found("quest", {"decode": 0.9}, sparsity=0.9, kv_bytes=10 * honest) is not None
    assert found("quest", {"decode": 0.9}, sparsity=0.9, kv_bytes=honest / 20) is not None
    assert found("quest", {"decode": 0.9}, sparsity=0.9, kv_bytes=10 * honest, shape=None) is None


def test_layers_with_a_window_do_not_count_and_gpus_may_be_more_than_heads() -> None:
    windowed = structs.replace(LLAMA_8B, window=512, windowed_layers=28)
    honest = 0.1 * 8212 * KV_BYTES
    assert found("quest", {"decode": 0.9}, sparsity=0.9, kv_bytes=honest / 8, shape=windowed) is None
    assert found("quest", {"decode": 0.9}, sparsity=0.9, kv_bytes=honest, shape=windowed) is not None
    assert found("quest", {"decode": 0.9}, sparsity=0.9, kv_bytes=8 * honest, ranks=32) is None
    assert found("quest", {"decode": 0.9}, sparsity=0.9, kv_bytes=10 * honest, ranks="32") is not None


_OTHERS: dict[str, dict[str, tuple[object, ...]]] = {
    "vertical_slash": {"sinks": (0, 4, 16), "recent": (1, 64, 200)},
    "block_sparse": {"block": (16, 32, 64, 128)},
    "flexprefill": {"min_budget": (0, 512)},
    "streaming_llm": {"sinks": (0, 4, 16)},
    "tri_shape": {"sinks": (0, 4, 16), "last": (0, 30, 100)},
    "quest": {"page": (1, 16, 32)},
    "twilight": {"page": (1, 16, 32), "base": (0.1, 0.25)},
}
_SPARSITIES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
_LENGTHS = (2, 17, 100, 127, 128, 129, 200, 500, 511, 700, 1025)


def _made(kind: str, n: int, heads: int, kv_heads: int, generator: Any) -> tuple[Any, Any]:
    """Queries and keys: random ones, or such as draw attention to the last keys, to few, or to the first."""
    import torch

    q = torch.randn(n, heads, 16, generator=generator)
    k = torch.randn(n, kv_heads, 16, generator=generator)
    if kind == "recent":
        q[:, :, 0], k[:, :, 0] = 30, 20 * torch.linspace(0, 1, n)[:, None]
    elif kind == "few":
        k *= 8 * torch.rand(n, 1, 1, generator=generator)
    elif kind == "first":
        k[:4] *= 10
    return q, k


def _prompt_sparsity(method: Any, length: int, chunks: Callable[[], int], kind: str, generator: Any) -> float:
    """What a prompt leaves out that comes in chunks, as engines count it."""
    from sparse_tasks.attention.interactions import causal_count
    from sparse_tasks.attention.prefill import select_stretches

    q, k = _made(kind, length, 2, 1, generator)
    computed, start = 0.0, 0
    while start < length:
        end = min(length, start + chunks())
        for _, index in select_stretches(method, q[start:end], k[:end], length=length):
            computed += index.computed().double().mean().item()
        start = end
    return max(0.0, 1 - computed / causal_count(length, length))


def _step_sparsity(method: Any, length: int, steps: int, kind: str, generator: Any) -> float:
    """What the steps after a prompt leave out, over three layers."""
    from sparse_tasks.attention.method import Layer
    from sparse_tasks.attention.steps import Memory

    read = dense = 0.0
    for layer in range(3):
        q, k = _made(kind, length + steps, 4, 2, generator)
        memory = Memory(method, Layer(layer, 3))
        memory.read(q[:length], k[:length], k[:length])
        for n in range(length + 1, length + steps + 1):
            _, index = memory.step(q[n - 1 : n], k[:n], k[:n])
            read, dense = read + index.computed().double().mean().item(), dense + n
    return max(0.0, 1 - read / dense)


@needs_torch
@pytest.mark.filterwarnings("ignore:no kernel for cpu")
@pytest.mark.parametrize("method", OURS)
def test_true_sparsities_of_all_methods_are_accepted(method: str) -> None:
    """Ragged lengths and chunks, budgets of both kinds, queries and keys of four kinds."""
    import torch

    from sparse_tasks.attention.attention import Attention

    draw, generator = random.Random(method), torch.Generator().manual_seed(7)
    for _ in range(10):
        sparsity = draw.choice((None, *_SPARSITIES))
        asked = {} if sparsity is not None else budgets(method)
        arguments = {name: draw.choice(values) for name, values in (asked | _OTHERS.get(method, {})).items()}
        length, kind = draw.choice(_LENGTHS), draw.choice(("random", "recent", "few", "first"))
        attention = Attention.parse(method, sparsity=sparsity, arguments=arguments)
        steps, measured = 1, {"prefill": 0.0, "decode": 0.0}
        if attention.prefill is not None:
            size = draw.choice((0, 64, 300, 2048))
            chunks = (lambda: draw.randint(1, 300)) if size == 0 else (lambda size=size: size)
            measured["prefill"] = _prompt_sparsity(attention.prefill, length, chunks, kind, generator)
        else:
            steps = draw.choice((1, 2, 5, 17))
            measured["decode"] = _step_sparsity(attention.decode, length, steps, kind, generator)
        case = (sparsity, arguments, length, kind, measured)
        reason = found(method, measured, sparsity=sparsity, arguments=arguments, tokens=length, written=steps + 1)
        assert reason is None, case


@pytest.mark.parametrize(
    ("method", "sparsity", "measured"),
    [
        ("block_sparse", 0.5, {"prefill": 0.467, "decode": 0.0}),
        ("block_sparse", 0.9, {"prefill": 0.655, "decode": 0.0}),
        ("quest", 0.5, {"prefill": 0.0, "decode": 0.499}),
        ("quest", 0.9, {"prefill": 0.0, "decode": 0.900}),
    ],
)
def test_measurements_at_1k_with_few_blocks_are_accepted(
    method: str, sparsity: float, measured: dict[str, float]
) -> None:
    assert found(method, measured, sparsity=sparsity, tokens=1024, written=64) is None


def test_unknown_token_counts_come_from_the_data_set() -> None:
    assert found("quest", {"decode": 0.9}, sparsity=0.9, tokens=None, written=None) is None
    assert found("quest", {"decode": 0.99}, sparsity=0.9, tokens=None, written=None) is not None


def test_steps_that_begin_at_the_end_of_a_context_read_fewer_bytes() -> None:
    """A question of half the prompt in two-byte numbers: its steps see less than the prompt."""
    read = 0.5 * 32 * 2 * 8 * 128 * 2 * 400
    for compress, fits in (("context", True), (UNSET, False)):
        reported = found("h2o", {"decode": 0.5}, sparsity=0.5, kv_bytes=read, compress=compress)  # type: ignore[arg-type]
        assert (reported is None) is fits, reported


def test_a_server_cannot_choose_before_the_question() -> None:
    reported = found("unknown", None, engine="openai", compress="context")
    assert reported == "chose what to keep before the question, which openai cannot"
    assert found("snapkv", {"prefill": 0.0, "decode": 0.8}, sparsity=0.9, compress="context", engine="vllm") is None


def test_budgets_of_contexts_may_read_more_but_not_less() -> None:
    for claimed, of_contexts, of_prompts in ((0.898, True, True), (0.7, True, False), (0.95, False, False)):
        measured = {"prefill": 0.0, "decode": claimed}
        assert (
            found("snapkv", measured, sparsity=0.9, compress="context", engine="transformers") is None
        ) is of_contexts
        assert (found("snapkv", measured, sparsity=0.9) is None) is of_prompts
    assert (
        found("h2o", {"prefill": 0.0, "decode": 0.95}, sparsity=0.9, compress="context", engine="transformers") is None
    )
    assert (
        found(
            "block_sparse+snapkv",
            {"prefill": 0.7, "decode": 0.7},
            sparsity=0.8,
            compress="context",
            engine="transformers",
        )
        is None
    )
    assert (
        found("snapkv", {"prefill": 0.2, "decode": 0.8}, sparsity=0.8, compress="context", engine="transformers")
        is not None
    )


def test_only_engines_that_compress_contexts_may_claim_it() -> None:
    measured = {"prefill": 0.0, "decode": 0.898}
    for name in ("vllm", "transformers"):
        said = found("snapkv", measured, sparsity=0.9, compress="context", engine=name)
        assert (said is None) == ENGINES.get(name).compresses_contexts
