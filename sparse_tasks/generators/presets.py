"""Presets: named bundles of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Preset:
    """A named bundle of parameters; the user's own settings come on top.

    Attributes:
        summary: One line for listings.
        settings: By path (``task.parameter`` or ``group.parameter``).
        max_new_tokens: Answer budgets by task that differ from the tasks' own.
        length_includes_output: Whether answer budgets are subtracted from the length.
        completed: Whether questions are asked as completions and scored with RULER's metrics, where a task supports
            that.
        question_position: Position of questions, unless the user sets it.
        begin_answer: Whether prompts end inside the answer.
        tasks: Tasks and groups to make if the user names none; None: the usual ones.
    """

    summary: str
    settings: dict[str, str]
    max_new_tokens: Mapping[str, int] = field(default_factory=dict)
    length_includes_output: bool = False
    completed: bool = False
    question_position: str = "both"
    begin_answer: bool = False
    tasks: tuple[str, ...] | None = None


_RULER_BUDGETS = {
    "ruler_niah_single_1": 128,
    "ruler_niah_single_2": 128,
    "ruler_niah_single_3": 128,
    "ruler_niah_multikey_1": 128,
    "ruler_niah_multikey_2": 128,
    "ruler_niah_multikey_3": 128,
    "ruler_niah_multivalue": 128,
    "ruler_niah_multiquery": 128,
    "ruler_vt": 30,
    "ruler_cwe": 120,
    "ruler_fwe": 50,
    "ruler_qa_1": 32,
    "ruler_qa_2": 32,
}

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
            "story_judge.sales": "20",
            "ruler_niah.queries": "16",
            "ruler_vt.chains": "16",
            "ruler_vt.hops": "8",
            "ruler_cwe.words": "20",
            "ruler_cwe.common": "15",
            "reason.steps": "64",
            "copy_nth.alike": "8",
            "copy_nth.lines": "48",
            "code_value.hops": "8",
            "code_definition.hops": "6",
            "code_calls.refused": "8",
            "code_calls.accepted": "24",
        },
    ),
    "small": Preset(
        "for models below 3B: begun answers, fewer questions and fewer distractors",
        {
            "story.distractors": "0",
            "story_retrieval.questions": "4",
            "story_filtering.chapters": "1",
            "story_aggregation.events": "4",
            "story_judge.sales": "4",
            "qa_biographies.hops": "1",
            "ruler_vt.chains": "2",
            "ruler_vt.hops": "1",
            "reason.steps": "4",
            "copy_nth.alike": "2",
            "copy_nth.lines": "8",
            "turns_story.kinds": "facts",
            "turns_story.distractors": "0",
            "turns_story.events": "2",
            "turns_story.gifts": "1",
            "ladder.distractors": "0",
            "ladder.events": "2",
            "ladder.gifts": "2",
            "code_value.hops": "2",
            "code_value.kind": "written",
            "code_definition.hops": "2",
            "code_calls.refused": "1",
            "code_calls.accepted": "3",
        },
        begin_answer=True,
    ),
    "ruler": Preset(
        "RULER's parameters, answer budgets, definition of length, answer prefixes and metrics",
        {"ruler_vt.chains": "1"},
        max_new_tokens=_RULER_BUDGETS,
        length_includes_output=True,
        completed=True,
        question_position="after",
    ),
    "ladder": Preset(
        "ladders: questions in levels that separate losses in retrieval from losses in reasoning",
        {},
        question_position="after",
        tasks=("ladder",),
    ),
}
