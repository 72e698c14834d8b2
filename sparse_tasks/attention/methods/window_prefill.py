"""The cheapest baseline for prompts: the first tokens and the last ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.streaming_llm import StreamingLLM


@dataclass(frozen=True, kw_only=True)
class WindowPrefill(StreamingLLM):
    """``streaming_llm`` as a control."""

    name: ClassVar[str] = "window_prefill"
    place: ClassVar[int] = 4
    summary: ClassVar[str] = "control: first tokens and a window of the last ones"
    control: ClassVar[bool] = True


METHODS.register("window_prefill", WindowPrefill)
