"""TidalDecode: tokens that a few layers select, and the layers after them read (Yang et al. 2024, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.handing import FirstLayers


@dataclass(frozen=True, kw_only=True)
class Tidal(FirstLayers):
    """Neighbouring layers attend to much the same tokens, so that a few layers select for the others.

    Each KV head of a layer reads what the KV head of its number has selected, by the attention of its group.
    """

    name: ClassVar[str] = "tidal"
    place: ClassVar[int] = 4
    summary: ClassVar[str] = "tokens that a few layers select for the others"
    importance: ClassVar[str] = "true attention in a few layers, handed on"
    source: ClassVar[str] = "Yang et al., 2024, arXiv:2410.05076"


METHODS.register("tidal", Tidal)
