"""Words that question and evidence share."""

from __future__ import annotations

import pytest

from sparse_tasks.generators.overlap import content, shared


@pytest.mark.parametrize(
    ("question", "evidence", "share"),
    [
        ("What is the secret number of old-harbour?", ["The secret number of old-harbour is 46."], 1.0),
        ("Which figure must nobody learn about the capital of Peru?", ["The secret number of Lima is 46."], 0.0),
        ("What is the secret number of the capital of Peru?", ["The secret number of Lima is 46."], 0.5),
        # Forms of a word are that word, wherever in the evidence they stand.
        ("Who bought onyx bottles?", ["An onyx bowl.", "He buys a bottle, bought before."], 1.0),
        # Articles, pronouns and the like are no content.
        ("Which is it, and whose?", ["It is his, which he and they have."], 0.0),
        ("Who?", ["Nobody."], 0.0),
    ],
)
def test_shares(question: str, evidence: list[str], share: float) -> None:
    assert shared(question, evidence) == share


def test_words_of_all_scripts_are_content() -> None:
    assert content("Żółw; 東京 and 46") == {"żółw", "東京", "46"}
