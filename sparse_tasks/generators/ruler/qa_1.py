"""RULER's first question answering task, on SQuAD (Hsieh et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.generators.qa.packing import completion
from sparse_tasks.generators.qa.squad import SquadTask
from sparse_tasks.generators.task import TASKS, Completion


@dataclass(frozen=True)
class RulerQa1(SquadTask):
    """Asks a question of SQuAD without saying which of the numbered paragraphs it is about."""

    name = "ruler_qa_1"
    summary = "an open question on one of many documents, without its number (RULER's qa_1, SQuAD)"
    ruler_metric = "string_match_part"
    named = False
    near = True
    placeholders: ClassVar[Mapping[str, str]] = {"question": "the question"}
    needed = ("question",)

    def complete(self, fields: Mapping[str, str]) -> Completion:
        return completion(fields["question"], "Give the answer alone, in as few words as the documents allow.")


TASKS.register(RulerQa1.name, RulerQa1)
