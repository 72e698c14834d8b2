"""Paths of a data set's Parquet files: ``65536/story_retrieval-test-00000-of-00001.parquet``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

SHARD_PATTERN: Final = r"^[0-9]+/[a-z0-9_]+-test-[0-9]{5,}-of-[0-9]{5,}\.parquet$(?!\n)"
"""Regular expression of the paths, as in the schema of manifests."""

_PARTS: Final = re.compile(r"([0-9]+)/([a-z0-9_]+)-test-([0-9]{5,})-of-([0-9]{5,})\.parquet")


@dataclass(frozen=True, slots=True)
class ShardPath:
    """Path of a file, relative to the data set's folder; ``str`` writes it.

    Attributes:
        length: Target length of the samples in tokens.
        task: Name of the task.
        number: Number of the file within its task and length, from 0.
        count: Files of the task at this length.
    """

    length: int
    task: str
    number: int
    count: int

    def __str__(self) -> str:
        return f"{shard_prefix(self.length, self.task)}{self.number:05d}-of-{self.count:05d}.parquet"

    @classmethod
    def parse(cls, path: str) -> ShardPath | None:
        """Parse a path; None if it is not the path of a shard."""
        match = _PARTS.fullmatch(path)
        return match and cls(int(match[1]), match[2], int(match[3]), int(match[4]))


def shard_prefix(length: int, task: str) -> str:
    """The prefix of the paths of a task at a length."""
    # ``load_dataset(DIR, data_dir="65536")`` finds the split by "test" in the name.
    return f"{length}/{task}-test-"
