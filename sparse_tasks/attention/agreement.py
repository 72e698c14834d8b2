"""Agreement of all layers on the tokens of a prompt to keep, reached once the last layer has read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparse_tasks.core.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.index import Kept
    from sparse_tasks.attention.method import SharedMethod


class Agreement:
    """Collects the layers' rankings and chooses what all of them keep of a prompt.

    Args:
        method: The method.
        layers: Number of layers that take part.
        length: Tokens of the prompt.
        impl: "auto", "triton" or "torch".
    """

    def __init__(self, method: SharedMethod, layers: int, length: int, impl: str = "auto") -> None:
        self._method, self._layers, self._length, self._impl = method, layers, length, impl
        self._ranks: list[Tensor] = []
        self._stay: Tensor | None = None

    @property
    def reached(self) -> bool:
        """Whether all layers have ranked the prompt."""
        return self._stay is not None

    def add(self, rank: Tensor) -> None:
        """Add one layer's ranking of the prompt (see ``SharedMethod.rank``)."""
        self._ranks.append(rank)
        if len(self._ranks) == self._layers:
            self._stay = self._method.agree(self._ranks, self._length, impl=self._impl)
            self._ranks = []

    def kept(self, kv_heads: int) -> Kept:
        """The tokens kept in a layer with this many KV heads.

        Raises:
            EngineError: Not all layers have read the prompt.
        """
        from sparse_tasks.attention.index import Kept

        return Kept.alike(self._agreed(), kv_heads, self._length)

    def dropped(self) -> list[range]:
        """Runs of dropped positions, ascending. Synchronises with the device.

        Raises:
            EngineError: Not all layers have read the prompt.
        """
        stay = self._agreed()
        before, after = stay[:-1], stay[1:]
        gap = after - before > 1
        runs = zip((before[gap] + 1).tolist(), after[gap].tolist(), strict=True)
        ends = (0, int(stay[0])), *runs, (int(stay[-1]) + 1, self._length)
        return [range(first, end) for first, end in ends if first < end]

    def _agreed(self) -> Tensor:
        if self._stay is None:
            read = f"{len(self._ranks)} of {self._layers} layers have read a prompt of {self._length} tokens"
            raise EngineError(f"{self._method.name} chooses for all layers at once, and {read}")
        return self._stay
