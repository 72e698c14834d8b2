"""TidalDecode: a few layers select tokens for the layers after them (Yang et al. 2024, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.handing import FirstLayers


@dataclass(frozen=True, kw_only=True)
class Tidal(FirstLayers):
    """Neighbouring layers attend to similar tokens, so a few layers select for the others.

    Each KV head of a layer reads what the KV head with its number has selected, by the attention of its group.
    """

    name: ClassVar[str] = "tidal"
    place: ClassVar[int] = 4
    summary: ClassVar[str] = "tokens that a few layers select for the others"
    importance: ClassVar[str] = "true attention in a few layers, handed on"
    source: ClassVar[str] = "Yang et al., 2024, arXiv:2410.05076"


METHODS.register("tidal", Tidal)
