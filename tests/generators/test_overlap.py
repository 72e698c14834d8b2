"""Words that question and evidence share."""

from __future__ import annotations

import pytest

from sparse_tasks.generators.overlap import content, shared
from sparse_tasks.generators.story.language import language


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
    assert shared(question, evidence, language().words) == share


@pytest.mark.parametrize(
    ("code", "question", "evidence", "share"),
    [
        ("de", "Welche Stühle kauften die Gäste?", "Ein Gast kaufte den alten Stuhl.", 1.0),
        ("de", "Wem begegnet sie?", "Als sie sich begegneten, war es Abend.", 1.0),
        ("de", "Was ist das für ein Ort?", "Das ist ein Dorf, für das wir kein Wort haben.", 0.0),
        ("es", "¿Quién compró las tazas rojas?", "Ana compraba una taza roja.", 1.0),
        ("es", "¿A qué lugar llegó?", "Una a la que él no fue.", 0.0),
        # Without blanks between words, characters are compared.
        ("zh", "第 XIV 节抵达的是何处？", "王芳在第14章到了白鹭渡。", 0.0),
        ("zh", "到了白鹭", "王芳在白河到站", 0.5),
    ],
)
def test_forms_and_function_words_are_those_of_the_language(
    code: str, question: str, evidence: str, share: float
) -> None:
    assert shared(question, [evidence], language(code).words) == share


def test_words_of_all_scripts_are_content() -> None:
    assert content("Żółw; 東京 and 46", language().words) == {"zołw", "東京", "46"}
