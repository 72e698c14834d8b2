"""The self-test at the start tells models that vLLM computes otherwise from those that sparse attention computes alike.

``Own`` stands for vLLM's attention, plainly written; at night real engines are tested.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("vllm", reason="vLLM is not installed")

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.vllm import selftest
from sparse_tasks.attention.vllm.selftest import rounding, self_test
from sparse_tasks.attention.vllm.session import Session
from sparse_tasks.core.errors import UsageError
from tests.attention.vllm.tested import FAULTS
from tests.cli.program import ROOT
from tests.methods import SERVED

HEADS, KV_HEADS, SIZE, BLOCK, BLOCKS = 4, 2, 16, 16, 300
CPU = torch.device("cpu")


@dataclass(eq=False)
class Own:
    """Attention of a layer: vLLM's, with whatever a model has beside causal attention, or ours."""

    scale: float = SIZE**-0.5
    causal: bool = True
    window: int | None = None
    sink: float | None = None
    cap: float | None = None
    sinks: Tensor | None = None  # as vLLM says them, and sparse attention knows them
    logits_soft_cap: float = 0
    backwards: bool = False  # its cache is another one, as the CPU build's is
    sparse: Any = None
    num_heads: int = HEADS
    num_kv_heads: int = KV_HEADS
    head_size: int = SIZE
    latent: bool = False

    def do_kv_cache_update(self, layer: Any, key: Tensor, value: Tensor, cache: Tensor, slots: Tensor) -> None:
        keys, values = self._split(cache)
        if self.backwards and self.sparse is None:
            key, value = -key, -value
        keys[slots // BLOCK, slots % BLOCK], values[slots // BLOCK, slots % BLOCK] = key, value
        if self.sparse is not None:
            self.sparse.notice(key, keys, slots)

    def forward(
        self, layer: Any, query: Tensor, key: Tensor, value: Tensor, cache: Tensor, metadata: Any, output: Tensor
    ) -> None:
        keys, values = self._split(cache)
        if self.sparse is not None:
            self.sparse.attend(metadata.sparse, query, key, value, keys, values, output)
            for span in metadata.sparse.dense:
                held = (x[metadata.sparse.table[span.row].long()].flatten(0, 1)[: span.end] for x in (keys, values))
                known = Own(self.scale, sinks=self.sinks, logits_soft_cap=self.logits_soft_cap)
                output[span.tokens] = known.attend(query[span.tokens], *held)
            return
        sign = -1 if self.backwards else 1
        for row, (first, last) in enumerate(zip(metadata.starts, metadata.starts[1:], strict=False)):
            k, v = (x[metadata.table[row].long()].flatten(0, 1)[: metadata.ends[row]] for x in (keys, values))
            output[first:last] = self.attend(query[first:last], sign * k, sign * v)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (x.repeat_interleave(HEADS // KV_HEADS, 1).float() for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q.float(), k) * self.scale
        if cap := self.cap or self.logits_soft_cap:
            scores = cap * (scores / cap).tanh()
        behind = torch.arange(len(k) - len(q), len(k))[:, None] - torch.arange(len(k))
        if self.causal:
            scores = scores.masked_fill(behind < 0, -torch.inf)
        if self.window is not None:
            scores = scores.masked_fill(behind >= self.window, -torch.inf)
        sinks = self.sinks if self.sink is None else torch.full((HEADS,), self.sink)
        if sinks is not None:
            scores = torch.cat([scores, sinks[:, None, None].expand(-1, len(q), 1)], -1)
        weights = scores.softmax(-1)[..., : len(k)]
        return torch.einsum("hqk,khd->qhd", weights, v).to(q.dtype)

    def _split(self, cache: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = cache.transpose(1, 2).split(SIZE, dim=-1)
        return keys, values


class Backend:
    """vLLM's backend, which makes metadata."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get_builder_cls(self) -> Callable[..., Any]:
        def build(prefix: int, common: Any, names: list[str]) -> SimpleNamespace:
            return SimpleNamespace(
                sparse=self._session.plan(names, common, BLOCK),
                starts=common.query_start_loc_cpu.tolist(),
                ends=common.seq_lens.tolist(),
                table=common.block_table_tensor,
            )

        return lambda spec, names, config, device: SimpleNamespace(
            build=lambda prefix, common: build(prefix, common, names)
        )


@dataclass
class Engine:
    """A session and its layers, as they are when a model is loaded."""

    session: Session
    modules: dict[str, Any]
    longest: int

    def test(self) -> Mapping[str, Any]:
        model = SimpleNamespace(model="acme/small", max_model_len=self.longest)
        return self_test(SimpleNamespace(model_config=model), self.session, self.modules, CPU)


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "set_current_vllm_config", lambda config: nullcontext())


def engine(
    attention: str = "quest",
    impls: list[Own] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    longest: int = 600,
    blocks: int = BLOCKS,
    choices: tuple[str, ...] = (),
) -> Engine:
    given = [Attention.parse(name, sparsity=None if name == "dense" else 0.5) for name in (attention, *choices)]
    session = Session(given[0], "torch", choices=tuple(given) if choices else ())
    backend = Backend(session)
    spec = SimpleNamespace(copy_with_new_block_size=lambda size: None)
    modules = {
        f"layers.{number}": SimpleNamespace(
            impl=impl,
            dtype=dtype,
            attn_backend=backend,
            kv_cache=torch.zeros(blocks, KV_HEADS, BLOCK, 2 * SIZE, dtype=dtype),
            get_kv_cache_spec=lambda config: spec,
        )
        for number, impl in enumerate(impls or [Own(), Own()])
    }
    session.join(modules, CPU)
    return Engine(session, modules, longest)


@pytest.mark.parametrize("name", ["dense", *SERVED, "vertical_slash+quest"])
def test_causal_attention_passes_under_every_method(name: str) -> None:
    tested = engine(name).test()
    assert tested["difference"] < 1e-5
    assert tested["bound"] == rounding(torch.float32)
    assert tested["layers"] == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_passes(dtype: torch.dtype) -> None:
    """A factor of scores that is no power of two is rounded into the queries."""
    for scale in (SIZE**-0.5, 0.3, 1.0):
        tested = engine("vertical_slash+quest", [Own(scale)], dtype=dtype).test()
        assert torch.finfo(dtype).eps / 8 < tested["difference"] < tested["bound"] / 2


@pytest.mark.parametrize(
    "own",
    [
        Own(causal=False),  # as a prefix LM's is
        Own(window=550),
        Own(window=30),
        Own(window=2),
        Own(sink=0.0),
        Own(sink=3.0),
        Own(cap=50.0),
        Own(cap=15.0),
    ],
    ids=repr,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["dense", "quest", "block_sparse", "snapkv"])
def test_a_model_that_attends_otherwise_is_refused(own: Own, dtype: torch.dtype, attention: str) -> None:
    given = engine(attention, [Own(), own], dtype=dtype)
    words = r"'acme/small' has other attention .* layers\.1, outputs of .* differ by .* explains"
    with pytest.raises(UsageError, match=words) as error:
        given.test()
    assert error.value.exit_code == 2


@pytest.mark.parametrize("attention", ["quest", "block_sparse", "vertical_slash", "snapkv", "h2o"])
@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1, 2.0])
def test_a_scale_that_layers_do_not_have_is_refused(attention: str, factor: float) -> None:
    given = engine(attention)
    given.modules["layers.1"].impl.scale *= factor  # after its sparse layer was made
    with pytest.raises(UsageError, match=rf"layers\.1, outputs of {attention} differ by"):
        given.test()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["dense", "quest", "block_sparse", "vertical_slash", "snapkv", "h2o"])
def test_sinks_and_caps_that_layers_tell_pass(dtype: torch.dtype, attention: str) -> None:
    own = Own(sinks=torch.tensor([0.0, 3.0, -5.0, 8.0]), logits_soft_cap=15.0)
    tested = engine(attention, [Own(), own], dtype=dtype).test()
    assert tested["difference"] < tested["bound"] / 2


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="differ by nan"):
        engine("quest", [Own(sink=float("nan"))]).test()


def vllms(source: str) -> dict[str, Any]:
    """Names that a module of vLLM's defines."""
    names: dict[str, Any] = {"__name__": "vllm.made", "torch": torch}
    exec(source, names)
    return names


ANOTHER = {
    "its object lacks a method": ("attn_backend", "class Backend: pass\nmade = Backend()"),
    "its class lacks a method": ("attn_backend", "class made: pass"),
    "its code raises": ("get_kv_cache_spec", "def made(config): raise TypeError('no such argument')"),
    "its code reads what is not there": ("get_kv_cache_spec", "def made(config): return config.no_such"),
    "its code imports what is not there": ("get_kv_cache_spec", "def made(config): from vllm import no_such"),
    "what its code calls raises": ("get_kv_cache_spec", "def made(config): return torch.nn.functional.pad(None, 'no')"),
}


@pytest.mark.parametrize(("name", "source"), ANOTHER.values(), ids=ANOTHER)
def test_a_release_with_another_interface_is_reported_by_its_version(name: str, source: str) -> None:
    given = engine("quest")
    for module in given.modules.values():
        setattr(module, name, vllms(source)["made"])
    with pytest.raises(UsageError, match=r"lacks what sparse attention needs: .*install 0\.26 to") as error:
        given.test()
    assert error.value.field == "vllm"
    assert given.session.offer.attention.method == "quest"


OURS: dict[str, tuple[str, Callable[..., Any], type[Exception]]] = {
    "a call with other arguments": ("plan", lambda self: None, TypeError),
    "an attribute that is not there": ("plan", lambda self, *given: self.no_such, AttributeError),
    "an attribute of nothing": ("begin", lambda self, *given: self.modules.no_such, AttributeError),
    "what torch raises": ("plan", lambda self, *given: torch.nn.functional.pad(None, "no"), TypeError),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("name", "defect", "kind"), OURS.values(), ids=OURS)
def test_errors_of_our_own_code_are_not_called_a_lack_of_vllm(
    name: str, defect: Callable[..., Any], kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = engine("quest")
    monkeypatch.setattr(Session, name, defect)
    with pytest.raises(kind):
        given.test()


def test_attention_that_requests_may_choose_is_tested_too(monkeypatch: pytest.MonkeyPatch) -> None:
    given = engine("quest", choices=("snapkv", "dense"))
    seen = list[str]()
    of = given.session.change
    monkeypatch.setattr(
        given.session, "change", lambda attention, *rest: (seen.append(attention.method), of(attention, *rest))
    )
    given.test()
    assert seen == ["quest", "snapkv", "dense", "quest"]
    assert [choice.method for choice in given.session.offer.choices] == ["quest", "snapkv", "dense"]


def test_caches_that_the_two_lay_out_otherwise_do_not_mix() -> None:
    assert engine("quest", [Own(backwards=True)]).test()["difference"] < 1e-5


@pytest.mark.parametrize(
    ("longest", "blocks"), [(2, 2), (16, 2), (17, 3), (41, 4), (64, 5), (100_000, 8), (100_000, 300)]
)
def test_little_room_in_model_or_cache(longest: int, blocks: int) -> None:
    assert engine("quest", longest=longest, blocks=blocks).test()["difference"] < 1e-5


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_test_stays_but_what_it_wrote_to_the_cache(fails: bool) -> None:
    given = engine("snapkv", [Own(causal=not fails)], choices=("quest",))
    offer = given.session.offer
    with pytest.raises(UsageError) if fails else nullcontext():
        given.test()
    assert given.session.offer == offer
    assert not given.session.requests.running
    assert given.session.counter is not None
    assert given.session.counter.take("self-test 0") is None
    assert given.modules["layers.0"].impl.sparse is not None


# --- real engines -----------------------------------------------------------------------------------------------

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "TORCHDYNAMO_DISABLE": "1", "PYTHONPATH": str(ROOT),
}  # fmt: skip


def real(model: Path, result: Path, *words: str) -> dict[str, Any]:
    """Self-tests of an engine, with nothing refused by name."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.attention.vllm.tested", model, result, *words],
        env=os.environ | ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.nightly
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_faults_of_a_real_engine_are_found(short_demo: Path, tmp_path: Path, dtype: str) -> None:
    found = real(short_demo, tmp_path / "result.json", ",".join(FAULTS), dtype)
    for name in ("at_start", "none"):
        assert found[name]["layers"] == 3
        assert 0 < found[name]["difference"] < found[name]["bound"] / 4
    assert found["none seconds"] < 2
    for name in set(FAULTS) - {"none"}:
        assert "has other attention" in found[name]
        assert "model.layers.2.self_attn.attn, outputs of vertical_slash+quest differ" in found[name]


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.nightly
def test_a_prefix_lm_that_no_name_gives_away_is_refused_at_the_start(demo: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.HrmTextConfig(
        vocab_size=49152, hidden_size=128, intermediate_size=128, num_attention_heads=2, num_key_value_heads=2,
        head_dim=64, num_layers_per_stack=1, num_hidden_layers=2, max_position_embeddings=4096,
    )  # fmt: skip
    transformers.HrmTextForCausalLM(config).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(demo).save_pretrained(tmp_path)
    reported = real(tmp_path, tmp_path / "result.json", "none")["at_start"]
    assert "has other attention in vLLM" in reported
    assert "rounding to float32 explains 0.0001" in reported
