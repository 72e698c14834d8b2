"""Samples as plain data."""

from __future__ import annotations

import json

from sparse_tasks.core.sample import Evidence, Sample
from sparse_tasks.generators.table import SCHEMA

SAMPLE = Sample(
    id="story_multihop-65536-00000-0123456789ab",
    task="story_multihop",
    index=0,
    length=65_536,
    input_tokens=65_530,
    max_new_tokens=1_024,
    prompt="context question",
    context="context ",
    question="question",
    answer_prefix="",
    answer="brass bell",
    answers=["brass bell"],
    metric="exact_match",
    evidence=[Evidence(start=0, end=7, depth=0.0, label="context")],
    question_position="after",
    params="{}",
    seed=42,
    turns=[],
)


def test_a_row_is_plain_data_with_a_column_a_field() -> None:
    row = SAMPLE.row()
    assert list(row) == list(Sample.__struct_fields__) == SCHEMA.names
    assert row["evidence"] == [{"start": 0, "end": 7, "depth": 0.0, "label": "context"}]
    assert json.loads(json.dumps(row)) == row
