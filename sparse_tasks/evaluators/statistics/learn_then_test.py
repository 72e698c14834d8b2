"""Learn then Test: p-values of mean losses, and sequences of hypotheses that share an error rate."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from itertools import takewhile

import numpy as np

from sparse_tasks.evaluators.statistics.values import TOLERANCE, checked, precise_mean, require_fraction


def hoeffding_bentkus_p_value(
    losses: Sequence[Sequence[float]], tolerance: float, *, all_or_nothing: bool = False
) -> float:
    """P-value, in (0, 1], of the hypothesis that the mean loss over tasks is above the tolerance.

    The mean is over tasks, each with the same weight, of a task's mean over its samples. With one task it is the
    p-value of Learn then Test (Angelopoulos, Bates, Candès, Jordan and Lei 2021, arXiv:2110.01052): the smaller of the
    bounds of Hoeffding (1963) and Bentkus (2004, Annals of Probability 32, 1650-1673). ``docs/analyses.md`` has the
    proof for several tasks.

    Losses that can only be 0 or 1 have the binomial tail itself where it holds for samples that are not alike: at
    tasks of one size and ``n * mean <= n * tolerance - 1`` (Hoeffding 1956, Annals of Mathematical Statistics 27,
    713-721).

    Args:
        losses: Shape ``[tasks][n]``, each in [0, 1]; all independent.
        tolerance: Mean loss that is allowed, in (0, 1).
        all_or_nothing: Whether losses can only be 0 or 1; that all observed ones are is not sufficient.

    Raises:
        ValueError: No task, a task without losses, a loss outside [0, 1], or not 0 or 1 where it must be, or a
            tolerance outside (0, 1).
    """
    from scipy.special import bdtr

    tasks = [checked(task) for task in losses]
    if not tasks:
        raise ValueError("there must be at least one task")
    require_fraction("tolerance", tolerance)
    if all_or_nothing and not all(np.isin(task, (0.0, 1.0)).all() for task in tasks):
        raise ValueError("losses must be 0 or 1")
    sizes = [len(task) for task in tasks]
    n = min(sizes) * len(tasks)
    lost = math.fsum(min(sizes) * precise_mean(task) for task in tasks)
    whole = max(0, math.ceil(lost - TOLERANCE))  # also for a sum that rounding raised
    tail = float(bdtr(whole, n, tolerance))
    if not (all_or_nothing and len(set(sizes)) == 1 and whole <= n * tolerance - 1):
        tail *= math.e
    return max(sys.float_info.min, min(1.0, _hoeffding(lost / n, n, tolerance), tail))


def samples_needed(tolerance: float, error: float) -> int:
    """Fewest samples that can show a mean loss to be at most ``tolerance``, if none of them has a loss.

    The smallest n with ``(1 - tolerance)^n <= error``, both in (0, 1), else ValueError; for 0.05 and 0.05 it is 59.
    """
    require_fraction("tolerance", tolerance)
    require_fraction("error", error)
    n = max(1, math.ceil(math.log(error) / math.log1p(-tolerance)) - 1)
    while _hoeffding(0.0, n, tolerance) > error:  # at most twice, for rounding of the logarithms
        n += 1
    return n


def _hoeffding(mean: float, n: int, tolerance: float) -> float:
    """Hoeffding's bound on the probability that the mean of ``n`` losses is this small."""
    from scipy.special import rel_entr

    if mean >= tolerance:
        return 1.0
    return math.exp(-n * float(rel_entr(mean, tolerance) + rel_entr(1 - mean, 1 - tolerance)))


def fixed_sequence(p_values_by_chain: Sequence[Sequence[float]], error: float) -> tuple[list[int], float]:
    """Test several chains of hypotheses, each in its order until the first that is not rejected.

    The probability of rejecting any true hypothesis in any chain is at most ``error``, whatever the dependence between
    p-values. Chains begin with equal shares of ``error``; one that has rejected its last hypothesis passes its share to
    the others (a graphical procedure of Bretz, Maurer, Brannath and Posch 2009, Statistics in Medicine 28, 586-604).
    With one chain it is the fixed sequence, with chains of one hypothesis Holm's test. The order within a chain must
    not be taken from the p-values.

    Returns:
        How many hypotheses each chain has rejected, its first ones; and the level that the unfinished chains have in
        the end, ``error`` where none is.

    Raises:
        ValueError: A p-value is outside [0, 1], or the error rate outside (0, 1).
    """
    require_fraction("error", error)
    if not all(0 <= p <= 1 for chain in p_values_by_chain for p in chain):
        raise ValueError("p-values must be in [0, 1]")
    highest = [max(chain, default=0.0) for chain in p_values_by_chain]
    waiting = len(highest)
    while waiting and (still := sum(p > error / waiting for p in highest)) < waiting:
        waiting = still
    level = error / max(1, waiting)
    return [sum(1 for _ in takewhile(level.__ge__, chain)) for chain in p_values_by_chain], level
