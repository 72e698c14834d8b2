"""Random draws that depend only on a key: a counter-based generator over a keyed hash.

A key is any tuple of plain values. It is hashed as JSON; draws are BLAKE2b (RFC 7693) of that hash and a counter. So
neighbouring seeds, indices or lengths share nothing, any part of a sample can be drawn independently, and no change in
a library's generator can alter the bytes.
"""

from __future__ import annotations

import json
from collections.abc import MutableSequence, Sequence
from hashlib import blake2b
from struct import unpack
from typing import TypeVar

T = TypeVar("T")
Part = str | int | float | bool | None


def digest(*parts: object) -> bytes:
    """A 64-byte hash of ``parts`` (plain JSON values, nested at will)."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return blake2b(text.encode()).digest()


class Stream:
    """A stream of draws named by its key.

    >>> Stream("story", 42, 0).below(10) == Stream("story", 42, 0).below(10)
    True
    """

    __slots__ = ("_counter", "_key", "_words")

    def __init__(self, *parts: object) -> None:
        self._key = digest(*parts)
        self._counter = 0
        self._words: list[int] = []

    def fork(self, *parts: Part) -> Stream:
        """An independent stream for one part of the work; drawing from it does not affect this one."""
        child = Stream.__new__(Stream)
        child._key = digest(self._key.hex(), *parts)
        child._counter = 0
        child._words = []
        return child

    def word(self) -> int:
        """64 random bits."""
        words = self._words
        if not words:
            self._words = words = list(unpack("<128Q", self._blocks(16)))
        return words.pop()

    def below(self, n: int) -> int:
        """An integer in [0, n); its bias is below ``n / 2**64``."""
        return (self.word() * n) >> 64

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high], both ends included."""
        return low + ((self.word() * (high - low + 1)) >> 64)

    def uniform(self) -> float:
        """A float in [0, 1)."""
        return (self.word() >> 11) * 2.0**-53

    def choice(self, items: Sequence[T]) -> T:
        """A uniformly random element of ``items``."""
        words = self._words  # inlined: most draws are choices, and a call would double their cost
        return items[((words.pop() if words else self.word()) * len(items)) >> 64]

    def shuffle(self, items: MutableSequence[T]) -> None:
        """Shuffle ``items`` in place (Fisher and Yates)."""
        for i in range(len(items) - 1, 0, -1):
            words = self._words
            j = ((words.pop() if words else self.word()) * (i + 1)) >> 64
            items[i], items[j] = items[j], items[i]

    def sample(self, items: Sequence[T], k: int) -> list[T]:
        """``k`` different positions of ``items``, in random order; ``k`` is at most ``len(items)``."""
        moved: dict[int, int] = {}
        chosen: list[T] = []
        for i in range(k):
            j = self.between(i, len(items) - 1)
            chosen.append(items[moved.get(j, j)])
            moved[j] = moved.get(i, i)
        return chosen

    def letters(self, alphabet: str, n: int) -> str:
        """``n`` uniformly random characters of ``alphabet`` (at most 256, ASCII)."""
        usable = 256 - 256 % len(alphabet)
        table = (alphabet.encode("ascii") * (256 // len(alphabet))).ljust(256, b"?")
        surplus = bytes(range(usable, 256))
        text = b""
        while len(text) < n:
            text += self._blocks((n - len(text)) // 56 + 1).translate(table, surplus)
        return text[:n].decode("ascii")

    def _blocks(self, n: int) -> bytes:
        """The next ``n`` blocks of 64 random bytes."""
        first, self._counter = self._counter, self._counter + n
        key = self._key
        return b"".join([blake2b(key + i.to_bytes(8, "little")).digest() for i in range(first, first + n)])
