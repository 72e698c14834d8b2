"""RULER's question answering tasks, which do not say which documents a question is about (Hsieh et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.generators.qa.hotpotqa import HotpotTask
from sparse_tasks.generators.qa.packing import completion
from sparse_tasks.generators.qa.squad import SquadTask
from sparse_tasks.generators.task import TASKS, Completion

__all__ = ["RulerQa1", "RulerQa2"]


@dataclass(frozen=True)
class RulerQa1(SquadTask):
    """Asks a question of SQuAD without saying which of the numbered paragraphs it is about."""

    name = "ruler_qa_1"
    summary = "an open question on one of many documents, not said which (RULER's qa_1, SQuAD)"
    ruler_metric = "string_match_part"
    named = False
    near = True
    placeholders: ClassVar[Mapping[str, str]] = {"question": "the question"}
    needed = ("question",)

    def complete(self, fields: Mapping[str, str]) -> Completion:
        return completion(fields["question"], "Give the answer alone, in as few words as the documents allow.")


@dataclass(frozen=True)
class RulerQa2(HotpotTask):
    """Asks a question of HotpotQA that two of the numbered paragraphs answer together."""

    name = "ruler_qa_2"
    summary = "an open question that needs two of many documents (RULER's qa_2, HotpotQA)"
    ruler_metric = "string_match_part"
    placeholders: ClassVar[Mapping[str, str]] = {"question": "the question"}
    needed = ("question",)

    def complete(self, fields: Mapping[str, str]) -> Completion:
        return completion(fields["question"], "Answer with yes or no, or else in as few words as the documents allow.")


TASKS.register(RulerQa1.name, RulerQa1)
TASKS.register(RulerQa2.name, RulerQa2)
