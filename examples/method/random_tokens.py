"""A sparse attention method in one file: random tokens, a lower baseline.

Once installed, it works like the built-in ones::

    pip install examples/method
    sparse-tasks attention show random_tokens --length 4k --sparsity 0.9
    sparse-tasks evaluate DATA --model M --attention random_tokens --sparsity 0.9

For a method of your own, change its name (here and in pyproject.toml), its description, and ``scores``. Methods that do
not evict tokens derive from ``PrefillMethod`` or ``DecodeMethod``; CONTRIBUTING.md describes what those need.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.attention.interactions import ranking_flops
from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.capacity import CapacityMethod
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class RandomTokens(CapacityMethod):
    """Keeps random tokens of a prompt, the same ones in prompts of the same length."""

    sinks: int = parameter(4, "first tokens that always stay", 0)
    recent: int = parameter(64, "last tokens that always stay", 0)
    seed: int = parameter(0, "another seed keeps other tokens", 0)

    name: ClassVar[str] = "random_tokens"
    summary: ClassVar[str] = "tokens at random"
    importance: ClassVar[str] = "random"
    source: ClassVar[str] = "an example"

    @property
    def observes(self) -> int:
        return 1  # it needs no queries, but the minimum is 1

    @property
    def unshared(self) -> str | None:
        return None  # selection ignores the content, so prompts may share cached prefixes

    def fixed(self, capacity: int) -> tuple[int, int]:
        sinks = min(self.sinks, capacity // 2)
        return sinks, min(self.recent, capacity - sinks)

    def index_flops(self, shape: Shape, length: float) -> float:
        """A draw for each token, and a ranking."""
        return shape.kv_heads * (length + ranking_flops(length))

    def scores(self, q: Tensor, k: Tensor, *, impl: str = "auto") -> Tensor:
        """fp32 ``[kv_heads, n_k]``: tokens with the highest scores are kept."""
        import torch  # imported here, so that methods can be listed without torch

        generator = torch.Generator(k.device).manual_seed(self.seed)
        return torch.rand(k.shape[1], k.shape[0], generator=generator, device=k.device)


METHODS.register("random_tokens", RandomTokens)
