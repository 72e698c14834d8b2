"""An excerpt of a prompt: its ends and its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Piece = tuple[str, str]
"""A kind (``text``, ``evidence`` or ``gap``) and the words; a gap's words say how much was left out."""


def excerpt(prompt: str, evidence: Sequence[dict[str, Any]], margin: int, most: int = 8) -> list[Piece]:
    """The pieces of ``prompt`` to show, in order.

    Args:
        prompt: The whole prompt.
        evidence: Spans with ``start`` and ``end``, in characters of the prompt.
        margin: Characters kept at both ends and on either side of evidence.
        most: Maximum number of spans; of more, this many are taken evenly.
    """
    spans = sorted((span["start"], span["end"]) for span in evidence)
    if len(spans) > most:
        spans = [spans[i * len(spans) // most] for i in range(most)]
    kept = [(0, 2 * margin), (len(prompt) - 4 * margin, len(prompt))]
    # Show only the two ends of long evidence (a whole chapter).
    kept += [
        window for start, end in spans for window in ((start - margin, start + margin), (end - margin, end + margin))
    ]
    pieces: list[Piece] = []
    at = 0
    for start, end in _merged(kept, len(prompt), join=margin // 2):
        # A window that ends in a long word may overlap the next window.
        start, end = max(at, _to_words(prompt, start, -1)), _to_words(prompt, end, 1)
        if start >= end:
            continue
        if start > at:
            pieces.append(("gap", f"[… {start - at:,} characters …]"))
        pieces += _split(prompt, start, end, spans)
        at = end
    return pieces


def _merged(windows: list[tuple[int, int]], length: int, join: int) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted((max(0, start), min(length, end)) for start, end in windows):
        if merged and start <= merged[-1][1] + join:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _to_words(prompt: str, at: int, step: int) -> int:
    """The nearest blank or end of the text in one direction, so that no word is cut."""
    while 0 < at < len(prompt) and not prompt[at - (step > 0)].isspace():
        at += step
    return at + (step < 0 and at > 0)


def _split(prompt: str, start: int, end: int, spans: list[tuple[int, int]]) -> list[Piece]:
    pieces: list[Piece] = []
    for first, last in spans:
        first, last = max(first, start), min(last, end)
        if first < last:
            if first > start:
                pieces.append(("text", prompt[start:first]))
            pieces.append(("evidence", prompt[first:last]))
            start = last
    if start < end:
        pieces.append(("text", prompt[start:end]))
    return pieces
