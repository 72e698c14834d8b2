"""Presets: named bundles of parameters."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True)
class Preset:
    """Settings by path (``task.parameter`` or ``group.parameter``); what the user sets himself comes on top."""

    summary: str
    settings: dict[str, str]


PRESETS = {
    "paper": Preset("the parameters of The Sparse Frontier, which are the defaults", {}),
    "hard": Preset(
        "more questions, hops, chapters, chains and distractors than the paper's",
        {
            "story.distractors": "4",
            "story_retrieval.questions": "32",
            "story_multihop.hops": "3",
            "story_filtering.chapters": "8",
            "story_aggregation.events": "16",
            "ruler_niah.queries": "16",
            "ruler_vt.chains": "16",
            "ruler_vt.hops": "8",
            "ruler_cwe.words": "20",
            "ruler_cwe.common": "15",
        },
    ),
}
