"""Guards dispatch: which implementation runs where, one warning and no more, and errors that say what would work."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sparse_tasks.attention.kernels import dispatch
from sparse_tasks.attention.kernels.dispatch import (
    TwinWarning,
    check_floats,
    check_heads,
    check_sequence,
    check_size,
    implementation,
    interpreted,
)
from sparse_tasks.attention.kernels.pooling import mean_pool
from sparse_tasks.core.errors import UsageError

HERE = torch.zeros(4, 1, 16)
ON_GPU: Any = SimpleNamespace(is_cuda=True, device=torch.device("cuda", 0))  # all that dispatch looks at


@pytest.fixture
def unwarned() -> Iterator[None]:
    """As if no kernel had run yet, before and after."""
    dispatch._warn_once.cache_clear()
    yield
    dispatch._warn_once.cache_clear()


def test_triton_runs_on_a_gpu() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert implementation("auto", ON_GPU) == implementation("triton", ON_GPU) == "triton"
        assert implementation("torch", ON_GPU) == "torch"


@pytest.mark.usefixtures("unwarned")
def test_the_twin_runs_elsewhere_with_one_warning_at_the_callers_line() -> None:
    """Also where the interpreter is on: it is for tests, and slower still."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            mean_pool(HERE, 2)
    assert [(w.category, w.filename) for w in caught] == [(TwinWarning, __file__)]
    assert str(caught[0].message) == "no kernel for cpu: using the torch twins, which are correct but slow"


@pytest.mark.usefixtures("unwarned")
def test_requesting_the_twin_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert implementation("torch", HERE) == "torch"


@pytest.mark.usefixtures("unwarned")
def test_a_gpu_without_triton_gets_the_twin_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_has_triton", lambda: False)
    with pytest.warns(TwinWarning, match=r"^triton is not installed: using the torch twins"):
        assert implementation("auto", ON_GPU) == "torch"
    with pytest.raises(UsageError, match="needs a GPU and triton, and the tensors are on cuda:0; use 'torch'"):
        implementation("triton", ON_GPU)


def test_triton_runs_on_a_cpu_only_in_its_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    assert interpreted()
    assert implementation("triton", HERE) == "triton"
    for value in ("0", ""):
        monkeypatch.setenv("TRITON_INTERPRET", value)
        assert not interpreted()
    monkeypatch.delenv("TRITON_INTERPRET")
    assert not interpreted()
    with pytest.raises(UsageError, match="needs a GPU and triton, and the tensors are on cpu; use 'torch'") as error:
        implementation("triton", HERE)
    assert (error.value.field, error.value.value) == ("impl", "triton")


@pytest.mark.parametrize("impl", ["cuda", "", "Torch"])
def test_an_unknown_implementation_is_refused(impl: str) -> None:
    with pytest.raises(UsageError, match="is unknown; choose from auto, triton, torch") as error:
        implementation(impl, HERE)
    assert (error.value.field, error.value.value) == ("impl", impl)


def zeros(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


Q, K = zeros(3, 4, 16), zeros(5, 2, 16)
SHAPE = "has to be [tokens, heads, head_size], none of them 0"
SIZE = "has to be a multiple of 16 from 16 to 256"
NO_TYPE = "is not a supported type; use torch.bfloat16, torch.float16, torch.float32"
UNLIKE = "differs from torch.float32 of the other inputs; convert it"


@pytest.mark.parametrize(
    ("call", "field", "value", "remedy"),
    [
        (lambda: check_sequence(Q[0], K), "q", (4, 16), SHAPE),
        (lambda: check_sequence(Q, K[:0]), "k", (0, 2, 16), SHAPE),
        (lambda: check_sequence(Q, K[:, :0]), "k", (5, 0, 16), SHAPE),
        (lambda: check_sequence(Q, zeros(5, 2, 32)), "k", (5, 2, 32), "has to end in the head size of q, 16"),
        (lambda: check_sequence(Q, zeros(5, 3, 16)), "q", 4, "query heads have to be a multiple of the 3 KV heads"),
        (
            lambda: check_sequence(Q, K[:2]),
            *("q", (3, 4, 16), "has more tokens than k, 2; queries are the last of the keys"),
        ),
        (
            lambda: check_sequence(Q, K, K[:4]),
            "v",
            (4, 2, 16),
            "has to be [5, 2, value_size], one for each of the keys",
        ),
        (lambda: check_sequence(Q, K, zeros(5, 2, 24)), "value_size", 24, SIZE),
        (lambda: check_sequence(Q, K, zeros(5, 2, 272)), "value_size", 272, SIZE),
        (lambda: check_sequence(Q, K.half()), "k", "torch.float16", UNLIKE),
        (lambda: check_sequence(Q, K, K.half()), "v", "torch.float16", UNLIKE),
        (lambda: check_sequence(Q.double(), K.double()), "q", "torch.float64", NO_TYPE),
        (lambda: check_sequence(Q, zeros(5, 2, 16, device="meta")), "k", "meta", "is not the device of q, cpu"),
        (lambda: check_sequence(Q, K, zeros(5, 2, 16, device="meta")), "v", "meta", "is not the device of q, cpu"),
        (lambda: check_heads(6, 4), "q", 6, "query heads have to be a multiple of the 4 KV heads"),
        (lambda: check_size("head_size", 0), "head_size", 0, SIZE),
        (lambda: check_size("head_size", 40), "head_size", 40, SIZE),
        (lambda: check_size("head_size", 272, device="cuda"), "head_size", 272, SIZE),
        (lambda: check_floats(keys=K, values=K.int()), "values", "torch.int32", NO_TYPE),
        (lambda: check_floats(keys=K, values=K.bfloat16()), "values", "torch.bfloat16", UNLIKE),
    ],
)
def test_checks_name_the_field_its_value_and_a_remedy(
    call: Callable[[], object], field: str, value: object, remedy: str
) -> None:
    with pytest.raises(UsageError) as error:
        call()
    assert (error.value.field, error.value.value, error.value.remedy) == (field, value, remedy)
    assert str(error.value) == f"{field}: {value!r} {remedy}"


def test_twins_take_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    check_sequence(zeros(3, 4, 512), zeros(5, 2, 512), zeros(5, 2, 24))
