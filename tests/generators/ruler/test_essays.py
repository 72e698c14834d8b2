"""Essays: made ones read well and never end; files are read or refused in words that help."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from sparse_tasks.core.errors import BadFileError, UsageError
from sparse_tasks.generators.corpora import Corpus, find_corpora
from sparse_tasks.generators.prose.grammar import Rule
from sparse_tasks.generators.ruler import essays
from sparse_tasks.generators.ruler.essays import prose, read_essays
from sparse_tasks.generators.seeds import Stream

FILLER = "It rained all morning, and nobody minded. " * 200


def corpus_of(path: Path, content: bytes) -> Corpus:
    path.write_bytes(content)
    return find_corpora({"essays": str(path)})["essays"]


def paragraphs(tmp_path: Path, text: str) -> list[list[str]]:
    return read_essays(corpus_of(tmp_path / "essays.txt", text.encode()))


# --- made ones ------------------------------------------------------------------------------------------------


def test_made_sentences_are_whole() -> None:
    text = prose(Stream("whole"), None)
    for i in range(2_000):
        sentences = text.paragraph(i)
        assert 3 <= len(sentences) <= 7
        for sentence in sentences:
            assert re.fullmatch(r"[A-Z].*[.?]", sentence)
            assert not re.search(r"[{}\d]|\s\s| [,.;:?]|\b(\w+) \1\b|secret|\.\.", sentence), sentence


def test_paragraphs_and_subjects_vary() -> None:
    text = prose(Stream("vary"), None)
    made = [" ".join(text.paragraph(i)) for i in range(5_000)]
    assert len(set(made)) == 5_000
    sentences = Counter(sentence for i in range(5_000) for sentence in text.paragraph(i))
    assert len(sentences) > 0.5 * sum(sentences.values())
    openings = {text.paragraph(8 * essay)[0] for essay in range(90)}
    assert len(openings) == 90


def test_a_paragraph_depends_on_its_number_alone() -> None:
    one, other = prose(Stream("alone"), None), prose(Stream("alone"), None)
    backward = [other.paragraph(i) for i in reversed(range(40))]
    assert [one.paragraph(i) for i in range(40)] == backward[::-1]
    assert prose(Stream("another"), None).paragraph(3) != one.paragraph(3)


def test_every_alternative_can_be_written() -> None:
    def walk(rule: Rule, seen: set[int]) -> None:
        assert rule.alternatives  # a symbol that is used and never defined has none
        for alternative in rule.alternatives:
            for piece in alternative:
                if isinstance(piece, Rule) and id(piece) not in seen:
                    seen.add(id(piece))
                    walk(piece, seen)

    assert set(essays._grammars()) == {"Opening", "Claim", "Detail", "Example", "History", "Objection", "Closing"}
    for rule in essays._grammars().values():
        walk(rule, set())


# --- files ----------------------------------------------------------------------------------------------------


def test_blank_lines_end_paragraphs_and_stops_end_sentences(tmp_path: Path) -> None:
    text = 'First one. Second, by Dr. Who and J. Doe!\nThird "quoted." Is it? Yes.\n \t\n\nNext paragraph\nhas no stop'
    read = paragraphs(tmp_path, f"{text}\n\n{FILLER}")
    assert read[0] == ["First one.", "Second, by Dr. Who and J. Doe!", 'Third "quoted."', "Is it?", "Yes."]
    assert read[1] == ["Next paragraph has no stop"]
    assert all(len(sentences) <= 8 for sentences in read)
    assert sum(map(len, read[2:])) == 200


def test_huge_lines_are_cut_at_blanks(tmp_path: Path) -> None:
    read = paragraphs(tmp_path, "word " * 50_000)
    assert sum(len(sentence.split()) for sentences in read for sentence in sentences) == 50_000
    assert max(len(sentence.split()) for sentences in read for sentence in sentences) == 80


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_all_systems_are_read(end: str, tmp_path: Path) -> None:
    text = f"One.\n\nTwo.\n\n{FILLER}".replace("\n", end)
    assert paragraphs(tmp_path, "\ufeff" + text)[:2] == [["One."], ["Two."]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\n\t\n", "holds 0 characters of text; a haystack needs 5,000 or more"),
        (b"Too short.", "holds 10 characters"),
        (FILLER.encode() + b"\nline two\n\xff\xfe", "line 3: byte 0xFF at 0 is not UTF-8"),
        (FILLER.encode("utf-16"), "is UTF-16; convert it"),
        (FILLER.encode("utf-16-le"), "line 1: a control character"),
        ("Müßig. ".encode("latin-1") * 1_000, "line 1: byte 0xFC at 1 is not UTF-8"),
        (b"Good.\n" + bytes(range(32)) + FILLER.encode(), "line 2: a control character"),
        (FILLER.encode() + b"\n\n" + b"x" * 5_000, "line 3: a word of 1,000 characters"),
    ],
)
def test_bad_files_are_named_with_their_line(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadFileError) as caught:
        read_essays(corpus_of(tmp_path / "bad.txt", content))
    assert str(caught.value).startswith(f"essays: {tmp_path / 'bad.txt'}")
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_missing_files_are_named(tmp_path: Path) -> None:
    for path, remedy in ((tmp_path / "none.txt", "is not a file"), (tmp_path, "is a folder")):
        with pytest.raises(UsageError, match=remedy):
            find_corpora({"essays": str(path)})


def test_a_file_that_changes_under_the_run_is_noticed(tmp_path: Path) -> None:
    # Its hash is part of every sample's key.
    corpus = corpus_of(tmp_path / "essays.txt", FILLER.encode())
    (tmp_path / "essays.txt").write_text(FILLER + "More.")
    with pytest.raises(BadFileError, match="was changed since"):
        read_essays(corpus)
