"""Grammar files are read as nltk reads them, and what is not one is refused."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
from nltk.grammar import CFG, Nonterminal

from sparse_tasks.generators.prose.grammar import Rule, parse_grammar
from sparse_tasks.generators.story.language import language, languages

FOLDERS = (
    *(f"story/languages/{code}/{folder}" for code in languages() for folder in ("events", "scenes")),
    "qa/grammar/facts",
    "qa/grammar/colour",
    "ruler/essays",
)
FILES = [
    path
    for folder in FOLDERS
    for path in sorted(Path(str(files("sparse_tasks.generators") / folder)).iterdir())
    if path.suffix == ".cfg"
]


def test_all_folders_have_grammars() -> None:
    assert len(FILES) > 50


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(path.parts[-3:]))
def test_file_is_read_as_nltk_reads_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    blank = language(path.parts[-3]).blank if path.parts[-3] in languages() else " "
    grammar, (start, rule) = CFG.fromstring(text), parse_grammar(text, blank)
    assert start == str(grammar.start())
    rules: dict[Nonterminal, Rule] = {grammar.start(): rule}
    left = [grammar.start()]
    while left:
        symbol = left.pop()
        productions = grammar.productions(lhs=symbol)
        for production, alternative in zip(productions, rules[symbol].alternatives, strict=True):
            for theirs, ours in zip(production.rhs(), alternative, strict=True):
                if isinstance(theirs, Nonterminal):
                    assert isinstance(ours, Rule)
                    if theirs not in rules:
                        left.append(theirs)
                    assert rules.setdefault(theirs, ours) is ours
                else:
                    assert ours == (theirs if theirs[0] in ",.;:!?’”" else f"{blank}{theirs}")


@pytest.mark.parametrize("text", ["Sky", 'Sky -> "a', "Sky -> 'a'", 'Sky -> "a" | "b"', 'Sky "a"'])
def test_line_that_is_not_a_production_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a production"):
        parse_grammar(f'# A comment\n\nTop -> "x" Sky\n{text}')


def test_symbol_without_productions_is_refused() -> None:
    with pytest.raises(ValueError, match="symbols without productions: Sky, Sun"):
        parse_grammar('Top -> "x" Sky Sun')
