"""Soft caps in Triton."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def bent(s, bend):
    """The hyperbolic tangent whose doubled argument is ``s * bend`` in powers of 2; see ``Softmax.exponents``."""
    return 1.0 - 2.0 / (tl.exp2(tl.minimum(s * bend, 126.0)) + 1.0)
