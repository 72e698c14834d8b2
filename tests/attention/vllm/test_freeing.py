"""Blocks that go back to vLLM while their request runs: none is read again, and none that is missing is handed out."""

from __future__ import annotations

import json
import pickle
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.interactions import whole_blocks
from sparse_tasks.attention.vllm import engine_arguments
from sparse_tasks.attention.vllm.arguments import CONNECTOR, CONTEXT, KEY, parse_offer, serve_arguments
from sparse_tasks.attention.vllm.checks import check_page
from sparse_tasks.attention.vllm.session import Session
from sparse_tasks.core.errors import UsageError
from tests.attention.vllm.served import Served, Text, named, scheduled
from tests.attention.vllm.test_engine import OPTIONS, SMALL, run
from tests.attention.vllm.test_engine import pytestmark as of_engines

BOTH = ["window_evict", "window_decode", "streaming_llm+window_evict", "window_prefill+window_decode"]
SHARED = ["snapkv_blocks", "knorm_blocks", "streaming_llm+snapkv_blocks"]
BLOCK = 16


def with_vllm(test: Any) -> Any:
    """For tests of vLLM's own code, whose import takes longer than all that they do."""
    for mark in [*of_engines, pytest.mark.filterwarnings("ignore")]:
        test = mark(test)
    return test


# --- what layers read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOTH)
def test_layers_read_no_freed_block(name: str) -> None:
    """Others write what they like there: here nothing that can be computed with."""
    attention, found, freed = named(name, 0.8), list[dict[str, Tensor]](), 0
    for poisoned in (False, True):
        served = Served(attention)
        served.cache[:, 0] = 0  # as vLLM's is
        texts = {"a": Text("a", 500, 8, 1), "b": Text("b", 260, 8, 2)}
        served.add(*texts.values())
        parts: dict[str, list[Tensor]] = {"a": [], "b": []}
        for step in ({"a": 200, "b": 130}, {"a": 200, "b": 130}, {"a": 100, "b": 1}, *[{"a": 1, "b": 1}] * 7):
            for request, out in served.step(**step).items():
                parts[request].append(out)
            for request, text in texts.items():
                unseen = attention.unseen(text.prompt, served.requests[request].computed)
                first, end = whole_blocks(unseen, BLOCK)
                freed = max(freed, end - first)
                if poisoned:
                    served.cache[:, served.requests[request].blocks[first:end]] = float("nan")
        found.append({request: torch.cat(out, 1) for request, out in parts.items()})
    assert freed >= 500 // BLOCK // 2
    for request in ("a", "b"):
        assert torch.equal(found[0][request].nan_to_num(7.0), found[1][request].nan_to_num(7.0))
        assert not found[1][request][:, -7:].isnan().any()


@pytest.mark.parametrize("name", SHARED)
def test_layers_read_no_block_that_they_have_agreed_to_drop(name: str) -> None:
    """Nor while a request that was preempted is computed again, from when on its blocks are others."""
    attention, found, dropped = named(name, 0.8), list[dict[str, Tensor]](), 0
    steps = [{"a": 200, "b": 130}, {"a": 200, "b": 130}, {"a": 100, "b": 1}, *[{"a": 1, "b": 1}] * 3]
    again = [{"a": 203, "b": 1}, {"a": 300, "b": 1}, *[{"a": 1, "b": 1}] * 3]
    for poisoned in (False, True):
        served = Served(attention)
        served.cache[:, 0] = 0  # as vLLM's is
        served.add(Text("a", 500, 9, 1), Text("b", 260, 12, 2))
        parts: dict[str, list[Tensor]] = {"a": [], "b": []}
        gone: dict[str, list[int]] = {}
        for number, step in enumerate([*steps, *again]):
            if number == len(steps):
                served.preempt("a")
                gone.pop("a")
            for request, out in served.step(**step).items():
                parts[request].append(out)
            for request, runs in served.dropped.items():
                assert served.requests[request].computed >= served.requests[request].text.prompt
                blocks = served.requests[request].blocks
                gone[request] = [block for run in runs for block in blocks[slice(*whole_blocks(run, BLOCK))]]
                dropped = max(dropped, len(gone[request]))
            if poisoned:
                served.cache[:, [block for blocks in gone.values() for block in blocks]] = float("nan")
        found.append({request: torch.cat(out, 1) for request, out in parts.items()})
    assert dropped >= 500 // BLOCK // 2
    for request in ("a", "b"):
        assert torch.equal(found[0][request].nan_to_num(7.0), found[1][request].nan_to_num(7.0))
        assert not found[1][request][:, -3:].isnan().any()
    # What was written before the preemption is computed again in the step that completes the prompt.
    torch.testing.assert_close(found[1]["a"][:, -6:-3], found[1]["a"][:, 500:503])


# --- what vLLM hands out --------------------------------------------------------------------------------------


class Cache:
    """vLLM's manager of blocks of 16 positions, with requests whose steps have all run."""

    def __init__(self, blocks: int, *, caching: bool = False, attention: str = "window_evict", **settings: Any) -> None:
        from vllm.utils.hashing import sha256
        from vllm.v1.core.kv_cache_manager import KVCacheManager
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

        from sparse_tasks.attention.vllm.freeing import FreeingSpec

        init_none_hash(sha256)
        self.hasher = get_request_block_hasher(BLOCK, sha256)
        plain = FullAttentionSpec(block_size=BLOCK, num_kv_heads=2, head_size=16, dtype=torch.float32)
        spec = FreeingSpec.of(plain, {"attention": attention, "free_blocks": True, **settings})
        assert spec.page_size_bytes == plain.page_size_bytes
        self.spec = FreeingSpec.merge([spec, spec])
        config = KVCacheConfig(
            num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], self.spec)]
        )
        self.manager = KVCacheManager(config, max_model_len=4096, scheduler_block_size=BLOCK, hash_block_size=BLOCK,
                                      enable_caching=caching)  # fmt: skip

    def request(self, name: str, prompt: list[int]) -> Any:
        from vllm import SamplingParams
        from vllm.v1.request import Request

        return Request(name, prompt, SamplingParams(max_tokens=99), None, block_hasher=self.hasher)

    def step(self, request: Any, tokens: int) -> bool:
        """Room for the next tokens, of a prompt or written ones; False if there is none."""
        hit: dict[str, Any] = {}
        if request.num_computed_tokens == 0:
            blocks, cached = self.manager.get_computed_blocks(request)[:2]
            hit = {"num_new_computed_tokens": cached, "new_computed_blocks": blocks}
            tokens -= cached
            request.hit = cached
        if self.manager.allocate_slots(request, tokens, **hit) is None:
            return False
        request.num_computed_tokens += tokens + hit.get("num_new_computed_tokens", 0)
        if request.num_computed_tokens == request.num_tokens:
            request.append_output_token_ids(7)
        return True

    def held(self, request: Any) -> list[bool]:
        """Which blocks of a request are its own."""
        return [not block.is_null for block in self.manager.coordinator.get_blocks(request.request_id)[0]]

    @property
    def used(self) -> int:
        return int(self.manager.block_pool.num_gpu_blocks - 1 - self.manager.block_pool.get_num_free_blocks())


@with_vllm
def test_after_a_prompt_its_middle_is_free() -> None:
    cache = Cache(50, sparsity=0.9)
    request = cache.request("a", list(range(320)))
    assert cache.step(request, 320)
    assert cache.used == 20
    assert cache.step(request, 1)
    # 4 sinks and the last 28 tokens stay, and what is written since has a block of its own.
    assert cache.held(request) == [True, *[False] * 17, True, True, True]
    assert cache.used == 4
    for _ in range(40):
        assert cache.step(request, 1)
    assert cache.used == 6  # of the prompt nothing else goes
    cache.manager.free(request)
    assert cache.used == 0


@with_vllm
def test_prompts_are_freed_as_they_are_read_where_their_method_lets_them() -> None:
    arguments = {"window_prefill.window": 64, "window_decode.token_budget": 64, "window_decode.page": 16,
                 "window_decode.sinks": 1, "window_prefill.sinks": 16}  # fmt: skip
    cache = Cache(80, attention="window_prefill+window_decode", arguments=arguments)
    request, most = cache.request("a", list(range(2048))), 0
    for _ in range(16):
        assert cache.step(request, 128)
        most = max(most, cache.used)
    assert most == 1 + (64 + 192 + 128) // BLOCK  # the window, what tiles add, and a step
    for _ in range(200):
        assert cache.step(request, 1)
    assert cache.used <= 1 + 64 // BLOCK + 1


@with_vllm
def test_a_request_that_has_lost_its_blocks_begins_again() -> None:
    """As after a preemption."""
    cache = Cache(50, sparsity=0.9)
    request = cache.request("a", list(range(320)))
    assert cache.step(request, 320)
    assert cache.step(request, 1)
    cache.manager.free(request)
    request.num_computed_tokens = 0
    assert cache.step(request, request.num_tokens)
    assert all(cache.held(request))
    assert cache.step(request, 1)
    assert cache.used == 4


def connector(pool: object, session: object = None) -> Any:
    """Ours, in the scheduler or in a worker, by a loader like vLLM's own."""
    from vllm.config import KVTransferConfig
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

    transfer = KVTransferConfig(**CONNECTOR)
    kind = KVConnectorFactory.get_connector_class(transfer)
    assert KVConnectorFactory.supports_hma_config(transfer)
    compilation = SimpleNamespace(static_forward_context=getattr(session, "modules", None))
    made: Any = kind(SimpleNamespace(kv_transfer_config=transfer, compilation_config=compilation), None, None)
    made.bind_gpu_block_pool(pool)
    return made


def output(dropped: Any) -> Any:
    return SimpleNamespace(kv_connector_worker_meta=pickle.loads(pickle.dumps(dropped)))


@with_vllm
def test_what_layers_have_agreed_to_drop_is_freed() -> None:
    from sparse_tasks.attention.vllm.connector import Dropped
    from sparse_tasks.attention.vllm.freeing import MANAGERS

    cache, other = (Cache(50, sparsity=0.9, attention="snapkv_blocks") for _ in range(2))
    made = connector(cache.manager.block_pool)
    request, same = cache.request("a", list(range(320))), other.request("a", list(range(320)))
    assert cache.step(request, 200)
    assert other.step(same, 320)
    made.update_connector_output(output(None))
    assert cache.step(request, 120)
    # All but whole blocks 0, 5 and 19, and of 10 a part; of a request that is over nothing.
    runs = [range(16, 80), range(96, 165), range(170, 304)]
    made.update_connector_output(output(Dropped({"a": runs, "gone": runs})))
    assert cache.used == 20
    assert cache.step(request, 1)
    assert [number for number, held in enumerate(cache.held(request)) if held] == [0, 5, 10, 19, 20]
    for _ in range(20):
        assert cache.step(request, 1)
        assert other.step(same, 1)
    assert cache.used == 6
    assert other.used == 22  # of another engine in the process
    cache.manager.free(request)  # preempted: once its prompt is computed again, it is told again
    request.num_computed_tokens = 0
    made.update_connector_output(output(Dropped({"a": runs})))  # of a step that had begun
    assert cache.step(request, 100)
    assert cache.step(request, 100)
    assert cache.used == 13
    assert cache.step(request, request.num_tokens - 200)
    assert all(cache.held(request))
    made.update_connector_output(output(Dropped({"a": runs})))
    assert cache.step(request, 1)
    assert cache.used == 6
    made.update_connector_output(output(Dropped({"a": runs})))
    cache.manager.free(request)  # before its next step, as of a client that leaves
    assert cache.used == 0
    assert not any(manager._dropped for manager in MANAGERS)


@with_vllm
def test_workers_tell_what_none_of_their_layers_will_read() -> None:
    from sparse_tasks.attention.vllm.connector import Dropped, common
    from sparse_tasks.attention.vllm.session import SESSIONS

    served = Served(named("snapkv_blocks", 0.8))
    served.session.modules = {}
    SESSIONS.add(served.session)
    made, reported = connector(None, served.session), list[Any]()
    served.add(Text("a", 500, 3, 1), Text("b", 50, 3, 2))
    for step in ({"a": 300}, {"a": 200, "b": 20}, {"a": 1, "b": 30}, {"a": 1, "b": 1}):
        served.step(**step)
        reported.append(made.build_connector_worker_meta())
    assert [None if one is None else sorted(one.positions) for one in reported] == [None, ["a"], ["b"], None]
    ours = reported[1].positions["a"]
    assert sum(map(len, ours)) == pytest.approx(400, abs=16)
    theirs = Dropped({"a": [range(40, 200)], "b": ours})  # of heads on another device
    both = reported[1].aggregate(theirs).positions
    assert list(both) == ["a"]
    kept = set(range(500)) - {position for run in ours for position in run}
    assert {position for run in both["a"] for position in run} == set(range(40, 200)) - kept
    assert common(ours, []) == []
    assert common(ours, ours) == ours
    again = scheduled({"a": 1}, cached={"a": 502})  # preempted, and its prompt is found in the prefix cache
    again.scheduled_cached_reqs.resumed_req_ids = {"a"}
    served.session.begin(again, lambda: ["a"])
    assert made.build_connector_worker_meta().positions == {"a": ours}


@with_vllm
def test_prefixes_are_whole_or_shorter() -> None:
    cache, prompt = Cache(50, caching=True, sparsity=0.9), list(range(1000, 1320))
    one = cache.request("one", prompt)
    assert cache.step(one, 320)
    assert cache.step(one, 1)
    again = cache.request("again", prompt)
    assert cache.step(again, 320)
    assert again.hit == 304  # freed blocks are there until others need them, and are its own now
    assert all(cache.held(again))
    assert cache.held(one)[1:18] == [False] * 17
    assert cache.step(again, 1)
    assert cache.used == 2 + 2 * 2  # the first and the last block but one are of both
    other = cache.request("other", list(range(2000, 2640)))  # takes 40 of the 43 blocks that are left
    assert cache.step(other, 640)
    third = cache.request("third", prompt)
    blocks, hit, *_ = cache.manager.get_computed_blocks(third)
    assert hit < 304
    assert len(blocks.blocks[0]) * BLOCK == hit
    assert not any(block.is_null for block in blocks.blocks[0])


@with_vllm
def test_layers_of_which_others_see_more_have_blocks_of_their_own() -> None:
    from vllm.v1.kv_cache_interface import FullAttentionSpec, MLAAttentionSpec
    from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry

    spec = Cache(50, sparsity=0.9).spec
    plain = FullAttentionSpec(block_size=BLOCK, num_kv_heads=2, head_size=16, dtype=torch.float32)
    with pytest.raises(AssertionError, match="share no blocks"):
        spec.merge([spec, plain])
    assert KVCacheSpecRegistry.get_manager_class(plain).__name__ == "FullAttentionManager"
    latent = MLAAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=576, dtype=torch.float32)
    with pytest.raises(UsageError, match=r"free_blocks: True does not go with a model .*MLAAttentionSpec"):
        type(spec).of(latent, {})


# --- what goes with it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOTH)
def test_methods_that_choose_by_position_go(name: str) -> None:
    given = engine_arguments(name, sparsity=0.9, free_blocks=True)
    assert parse_offer(given["additional_config"]).free_blocks
    assert not parse_offer(engine_arguments(name)["additional_config"]).free_blocks


@pytest.mark.parametrize("name", SHARED)
def test_methods_that_agree_go_with_a_connector(name: str) -> None:
    given = engine_arguments(name, sparsity=0.9, free_blocks=True)
    assert parse_offer(given["additional_config"]).free_blocks
    assert given["kv_transfer_config"] == CONNECTOR
    assert "kv_transfer_config" not in engine_arguments(name, sparsity=0.9)
    assert "kv_transfer_config" not in engine_arguments("window_evict", sparsity=0.9, free_blocks=True)
    words = serve_arguments(name, sparsity=0.9, free_blocks=True)
    assert json.loads(words[words.index("--kv-transfer-config") + 1]) == CONNECTOR


def test_parts_of_blocks_are_refused() -> None:
    method = named("snapkv_blocks").methods[0]  # of 16 tokens
    for size in (16, 8):
        check_page(method, size, frees=True)
    check_page(method, 32)
    with pytest.raises(UsageError, match=r"^snapkv_blocks.block: 16 is not a multiple of vLLM's block size, 128, so"):
        check_page(method, 128, frees=True)
    session = Session(Attention.of(method), free_blocks=True)
    session._layers["layer"] = object()  # type: ignore[assignment]
    with pytest.raises(UsageError, match="vLLM's block size, 24"):
        session.lay_out(["layer"], 24)


@pytest.mark.parametrize("name", ["dense", "quest", "snapkv", "knorm", "random_evict", "streaming_llm"])
def test_others_are_refused_by_name(name: str) -> None:
    with pytest.raises(UsageError, match=f"^free_blocks: True does not go with {name}: .*window_evict"):
        engine_arguments(name, free_blocks=True)


def test_what_the_cache_does_not_know_of_requests_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^free_blocks: True needs one attention for all requests"):
        engine_arguments("window_evict", choices=["window_evict", "quest"], free_blocks=True)
    with pytest.raises(UsageError, match=r"^additional_config.sparse_tasks.free_blocks: 1 has to be true or false"):
        parse_offer({KEY: {"attention": "window_evict", "free_blocks": 1}})
    session = Session(Attention.parse("window_evict"), free_blocks=True)
    session.change(Attention.parse("window_evict", sparsity=0.5))  # as the self-test does
    asking = scheduled({"a": 5}, new={"a": (5, 0)}, extra={"a": {CONTEXT: 3}})
    with pytest.raises(UsageError, match=f"^{CONTEXT}: 3 cannot be combined with free_blocks"):
        session.begin(asking, lambda: ["a"])
    with pytest.raises(UsageError, match=f"^{CONTEXT}: 3 does not go with knorm_blocks, which chooses once all layers"):
        Session(Attention.parse("knorm_blocks", sparsity=0.5)).begin(asking, lambda: ["a"])


# --- the real engine ------------------------------------------------------------------------------------------

PROMPTS = [[(number * 331 + place * place) % 1000 + 10 for place in range(300)] for number in range(4)]
CROWDED = OPTIONS | {"max_model_len": 400, "block_size": 32, "num_gpu_blocks_override": 26}  # room for two of them
NGRAMS = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3, "prompt_lookup_min": 1}


def tiny(folder: Path, demo: Path) -> dict[str, Any]:
    """A model for ``run`` to make."""
    small = SMALL | {"vocab_size": 1024, "hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1,
                     "head_dim": 32, "num_hidden_layers": 2}  # fmt: skip
    return {"folder": str(folder / "model"), "kind": "LlamaForCausalLM", "config": "LlamaConfig",
            "settings": small, "tokenizer": str(demo)}  # fmt: skip


@pytest.mark.nightly
@with_vllm
@pytest.mark.parametrize("name", ["window_decode", "snapkv_blocks", "knorm_blocks"])
def test_what_is_written_is_the_same_where_blocks_are_freed(name: str, demo: Path, tmp_path: Path) -> None:
    """In a cache that holds two prompts of four: their blocks are others' soon, and long answers are preempted."""
    made = tiny(tmp_path, demo)
    options = CROWDED | {"model": made["folder"], "enable_prefix_caching": name != "snapkv_blocks"}
    runs = {"first": {"prompts": PROMPTS, "tokens": 24}, "again": {"prompts": PROMPTS[:2], "tokens": 8},
            "long": {"prompts": PROMPTS, "tokens": 95}}  # fmt: skip
    engines = {
        f"{frees}": {
            "attention": {"attention": name, "sparsity": 0.5, "free_blocks": frees},
            "options": options, "runs": runs,
        }
        for frees in (False, True)
    }  # fmt: skip
    done = run(tmp_path, {"models": [made], "engines": engines})
    assert done["True"]["first"]["preempted"] == 0
    if name != "window_decode":  # of which less is left
        assert done["True"]["long"]["preempted"] > 0
    for length in runs:
        kept, freed = (done[frees][length]["answers"] for frees in ("False", "True"))
        assert [one["ids"] for one in freed] == [one["ids"] for one in kept]
        if length != "long":  # where steps are computed, and counted, again
            assert [one["ran"][0]["decode"]["kv_bytes"] for one in freed] == [
                one["ran"][0]["decode"]["kv_bytes"] for one in kept
            ]


@pytest.mark.nightly
@with_vllm
@pytest.mark.skipif(find_spec("numba") is None, reason="numba, by which vLLM looks n-grams up, is not installed")
@pytest.mark.parametrize("name", ["snapkv_blocks", "knorm_blocks"])
def test_freeing_goes_with_drafts_preemption_prefixes_and_clients_that_leave(
    name: str, demo: Path, tmp_path: Path
) -> None:
    """All at once, each request writes what it writes alone."""
    made, caching = tiny(tmp_path, demo), name != "snapkv_blocks"
    asked, attention = {"prompts": PROMPTS, "tokens": 90}, {"attention": name, "sparsity": 0.5}
    crowd = asked | {"prompts": PROMPTS * 2, "leaves": {0: 1, 2: 12, 5: 1, 7: 40}}
    options = OPTIONS | {"model": made["folder"], "max_model_len": 400, "block_size": 32}
    crowded = options | CROWDED | {"enable_prefix_caching": caching, "speculative_config": NGRAMS}
    engines = {
        "alone": {"attention": attention, "options": options, "runs": {"all": asked}},
        # The last one: vLLM 0.32 starts no engine in a process that has imported numba.
        "crowded": {"attention": attention | {"free_blocks": True}, "options": crowded,
                    "runs": {"crowd": crowd, "again": asked}},
    }  # fmt: skip
    done = run(tmp_path, {"models": [made], "engines": engines})
    alone = [answer["ids"] for answer in done["alone"]["all"]["answers"]]
    for found in done["crowded"].values():
        assert found["preempted"] > 0
        assert 0 < found["accepted"] < found["drafted"]
        for number, answer in enumerate(found["answers"]):
            assert answer["ids"] == alone[number % 4][: len(answer["ids"])]
    written = [len(answer["ids"]) for answer in done["crowded"]["crowd"]["answers"]]
    assert [count for number, count in enumerate(written) if number not in crowd["leaves"]] == [90] * 4
    assert all(written[number] < 90 for number in crowd["leaves"])
    cached = [answer["cached"] for found in done["crowded"].values() for answer in found["answers"]]
    assert (max(cached) > 0) == caching
