"""RULER's second question answering task, on HotpotQA (Hsieh et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.generators.qa.hotpotqa import HotpotTask
from sparse_tasks.generators.qa.packing import completion
from sparse_tasks.generators.task import TASKS, Completion


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


TASKS.register(RulerQa2.name, RulerQa2)
