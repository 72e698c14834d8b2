"""Readers of the published formats: what they find, and what they say of files that are not as they should be."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.core.errors import BadFileError
from sparse_tasks.generators.corpora import Corpus, mount
from sparse_tasks.generators.qa import formats
from sparse_tasks.generators.qa.collection import Collection, clean, left_out
from sparse_tasks.generators.qa.hotpotqa import read_hotpotqa
from sparse_tasks.generators.qa.quality import read_quality
from sparse_tasks.generators.qa.squad import read_squad
from sparse_tasks.generators.qa.toefl import read_toefl
from tests import example_corpora as made


def corpus(path: Path, name: str = "qa_test") -> Corpus:
    return Corpus(name, (path,), "0" * 64, path.name, None)


def qa(question: str, *answers: str, **more: Any) -> dict[str, Any]:
    return {"question": question, "answers": [{"text": text, "answer_start": 0} for text in answers], **more}


def squad_of(*paragraphs: tuple[str, list[dict[str, Any]]]) -> dict[str, Any]:
    listed = [{"context": context, "qas": asked} for context, asked in paragraphs]
    return {"data": [{"title": "A_title", "paragraphs": listed}]}


# --- what they find ------------------------------------------------------------------------------------------


def test_squad_json_and_parquet_hold_the_same(tmp_path: Path) -> None:
    published = made.squad(articles=5)
    one = read_squad(corpus(made.write_json(tmp_path / "dev.json", published)))
    two = read_squad(corpus(made.write_rows(tmp_path / "dev.parquet", made.squad_rows(published))))
    assert made.questions_of(one) == made.questions_of(two)
    assert set(one.documents) == set(two.documents)
    assert len(one.questions) == 2 * len(one.documents) == 80
    assert one.left_out == two.left_out == {"that cannot be answered": 40}
    assert [[one.documents[i] for i in q.near] for q in one.questions] == [
        [two.documents[i] for i in q.near] for q in two.questions
    ]


def test_squad_ranks_references_and_drops_what_cannot_be_answered(tmp_path: Path) -> None:
    asked = [
        qa("When?", "in 1066", "1066", "1066", is_impossible=False),
        qa("Why?", is_impossible=True),
        qa("  Who \n built it? ", "Ada"),
    ]
    found = read_squad(corpus(made.write_json(tmp_path / "a.json", squad_of(("Ada built it in 1066.", asked)))))
    assert [(q.text, q.answers, q.answer) for q in found.questions] == [
        ("When?", ("1066", "in 1066"), "1066"),
        ("Who built it?", ("Ada",), "Ada"),
    ]
    assert found.documents == ("A title\nAda built it in 1066.",)


def test_quality_lines_and_rows_hold_the_same(tmp_path: Path) -> None:
    published = made.quality(articles=4)
    for line in published:
        del line["title"]
    one = read_quality(corpus(made.write_lines(tmp_path / "dev.jsonl", published)))
    two = read_quality(corpus(made.write_rows(tmp_path / "dev.parquet", made.quality_rows(published))))
    three = read_quality(corpus(made.write_lines(tmp_path / "rows.jsonl", made.quality_rows(published))))
    assert made.questions_of(one) == made.questions_of(two) == made.questions_of(three)
    assert len(one.questions) == 12
    assert {q.answer for q in one.questions} <= set("ABCDE")


def test_toefl_in_all_its_forms(tmp_path: Path) -> None:
    forms: list[dict[str, Any]] = [
        {"context": "a .", "questions": ["Question: what?\nA. one\nB. two\nC. three"], "answer": ["AC"]},
        {"context": "a .", "questions": ["what?"], "options": [["one", "two", "three"]], "answer": [["A", "C"]]},
        {"passage": "a .", "question": "what?", "options": ["A. one", "B. two", "C. three"], "answer": "c, a"},
        {"article": "a .", "question": "Question 3: what?\n(A) one\n(B) two\n(C) three", "answer": "A and C"},
    ]
    for form in forms:
        found = read_toefl(corpus(made.write_lines(tmp_path / "t.jsonl", [form])))
        (question,) = found.questions
        assert (question.text, question.choices, question.answers) == ("what?", ("one", "two", "three"), ("A", "C"))
        assert question.answer == "A, C"


def test_hotpotqa_json_and_parquet_hold_the_same(tmp_path: Path) -> None:
    published = made.hotpotqa(questions=10)
    one = read_hotpotqa(corpus(made.write_json(tmp_path / "dev.json", published)))
    two = read_hotpotqa(corpus(made.write_rows(tmp_path / "dev.parquet", made.hotpotqa_rows(published))))
    assert made.questions_of(one) == made.questions_of(two)
    assert len(one.documents) == 100
    assert all(len(q.gold) == 2 and len(q.near) == 10 and set(q.gold) < set(q.near) for q in one.questions)
    assert any(q.answer in ("yes", "no") for q in one.questions)


def test_a_duplicate_question_is_asked_once(tmp_path: Path) -> None:
    asked = [qa("Who built it?", "Ada"), qa("who built IT?", "Ada"), qa("Who built it?", "Ada")]
    content = squad_of(("Ada built it.", asked), ("Ada built it again.", asked[:1]))
    found = read_squad(corpus(made.write_json(tmp_path / "a.json", content)))
    assert [q.gold for q in found.questions] == [(0,), (1,)]  # about another document it is another question
    assert found.left_out == {"that occur twice": 2}


def test_a_duplicate_document_is_merged(tmp_path: Path) -> None:
    content = squad_of(("Ada built it.", [qa("Who?", "Ada")]), ("Ada built\u00a0it.\n", []), ("Ada built it. \n", []))
    found = read_squad(corpus(made.write_json(tmp_path / "a.json", content)))
    assert found.documents == ("A title\nAda built it.", "A title\nAda built\u00a0it.")


def test_questions_that_cannot_be_asked_are_counted_and_reported(tmp_path: Path) -> None:
    asked = [
        qa("Who?", "Boris"),
        qa("When?", "1066", "Boris"),
        qa("Why?", "..."),
        qa("  ", "Ada"),
    ]
    content = squad_of(("Ada built it in 1066.", asked), ("Document 7\nis here.", [qa("Where?", "here")]))
    read = corpus(made.write_json(tmp_path / "a.json", content), "qa_squad")
    found = read_squad(read)
    assert [(q.text, q.answers) for q in found.questions] == [("When?", ("1066",))]
    assert found.left_out.total() == 4
    mount([read])
    (notice,) = left_out(read, read_squad)
    assert notice.startswith("qa_squad (a.json): left out ")
    assert "1 question whose answer is not in their document" in notice


def test_hotpotqa_leaves_out_what_has_not_its_two_paragraphs(tmp_path: Path) -> None:
    records = made.hotpotqa(questions=4)
    records[0]["supporting_facts"] = [["Nowhere", 0], *records[0]["supporting_facts"][:1]]
    records[1]["supporting_facts"] = records[1]["supporting_facts"][:1]
    records[2]["answer"] = "Elsewhere"
    found = read_hotpotqa(corpus(made.write_json(tmp_path / "h.json", records)))
    assert len(found.questions) == 1
    assert found.left_out == {
        "of which 1 paragraph is missing": 1,
        "that rest on 1 paragraph, not 2": 1,
        "whose answer is not in their document": 1,
    }


def test_text_is_cleaned_of_what_prompts_cannot_hold() -> None:
    assert clean(" a \r\n\r\n\r\n\r\n\t b\x00\u2028c\x85 ") == "a\n\nb\nc"
    assert clean("\ufeff\u3000x") == "\ufeff\u3000x"
    assert clean(" \n ") == ""


# --- what they say -------------------------------------------------------------------------------------------

READERS: dict[str, tuple[Callable[[Corpus], Collection], bytes]] = {
    "squad": (read_squad, json.dumps(made.squad(2, 2)).encode()),
    "quality": (read_quality, "".join(json.dumps(line) + "\n" for line in made.quality(2, 8)).encode()),
    "toefl": (read_toefl, "".join(json.dumps(line) + "\n" for line in made.toefl(2, 8)).encode()),
    "hotpotqa": (read_hotpotqa, json.dumps(made.hotpotqa(2)).encode()),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.93, 0.999])
def test_truncated_files(name: str, share: float, tmp_path: Path) -> None:
    reader, content = READERS[name]
    path = tmp_path / "cut.json"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BadFileError, match=r"cut\.json( is empty|, line \d+.*is not JSON)"):
        reader(corpus(path))


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x00\x01\x02", "is not JSON"),
        (b"hello", "is not JSON"),
        (b"PK\x03\x04rest", "is a zip archive; unpack it"),
        (b"\x1f\x8b\x08rest", "cannot be unpacked.*is the file cut off"),
        (gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0), "packed with gzip; unpack it"),
        (b"<!DOCTYPE html>", "looks like a web page, or XML; .* read from"),
        (b"id,question,answer\n1,2,3\n", r"looks like a table \(CSV or TSV\); .* read from"),
        (b"ARROW1\x00\x00", "is an Arrow file; write it as Parquet"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
        (b"[1, 2]", "is a whole number, not an object; .* read from"),
        (b'[{"article": "a"}, {}]', "is missing|has the field article; .* read from"),
        ("{}".encode("utf-16"), "is UTF-16; convert it to UTF-8"),
        (b'{"data": "caf\xe9"}', "line 1: byte 0xE9 at 13 is not UTF-8"),
        (b"3", "is a whole number, not a JSON object or a list of them; .* read from"),
        (b"null", "is nothing, not a JSON object or a list of them; .* read from"),
        (b"{}", "the record has no fields; .* read from"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"data": ' + b"9" * 5000 + b"}", "not JSON that can be read|is a whole number"),
        (b"PAR1", "cannot be read as Parquet"),
    ],
)
def test_files_that_are_something_else(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(BadFileError, match=rf"other\.json.*({says})"):
        READERS[name][0](corpus(path))


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    for reader, content in READERS.values():
        path = tmp_path / "bom.json"
        path.write_bytes(b"\xef\xbb\xbf" + content)
        assert reader(corpus(path)).questions


def test_another_encoding_is_found_at_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    lines = READERS["quality"][1].splitlines()
    path.write_bytes(lines[0] + b'\n\n{"article": "na\xefve"}\n')
    with pytest.raises(BadFileError, match=r"mixed\.jsonl, line 3: byte 0xEF at 15 is not UTF-8"):
        read_quality(corpus(path))


def at(content: Any, *path: str | int) -> Any:
    for step in path:
        content = content[step]
    return content


SQUAD = ("data", 0, "paragraphs", 1)
WRONG = [
    ("squad", ("data",), "data is {}"),
    ("squad", ("data", 0, "title"), r"data\[0\]\.title is {}"),
    ("squad", (*SQUAD, "qas", 0, "question"), r"qas\[0\]\.question is {}"),
    ("squad", (*SQUAD, "qas", 0, "is_impossible"), r"is_impossible is {}"),
    ("squad", (*SQUAD, "qas", 1, "answers", 0, "text"), r"qas\[1\]\.answers\[0\]\.text is {}"),
    ("hotpotqa", (1, "answer"), r"\[1\]\.answer is {}"),
    ("hotpotqa", (0, "context", 3, 1), r"\[0\]\.context\[3\]\[1\] is {}"),
    ("hotpotqa", (0, "supporting_facts", 0), r"\[0\]\.supporting_facts\[0\] is {}"),
    ("quality", (1, "questions", 0, "options"), r"line 2: questions\[0\]\.options is {}"),
    ("quality", (1, "questions", 2, "gold_label"), r"line 2: questions\[2\]\.gold_label is {}"),
    ("toefl", (0, "context"), "line 1: context is {}"),
    ("toefl", (0, "questions", 1), r"line 1: questions\[1\] is {}"),
    ("toefl", (0, "answer"), "line 1: answer is {}"),
]


@pytest.mark.parametrize(("name", "path", "says"), WRONG)
def test_wrong_fields_are_named(name: str, path: tuple[str | int, ...], says: str, tmp_path: Path) -> None:
    lines = name in ("quality", "toefl")
    reader, content = READERS[name]
    good = [json.loads(line) for line in content.splitlines()] if lines else json.loads(content)
    *above, last = path
    for wrong in ({"a": 1}, 2.5, None):
        bad = copy.deepcopy(good)
        at(bad, *above)[last] = wrong
        file = tmp_path / "bad.json"
        if lines:
            made.write_lines(file, bad)
        else:
            made.write_json(file, bad)
        if wrong is None and isinstance(last, str):
            if last in ("title", "is_impossible"):
                continue
            expected = "the record has the field version; SQuAD" if last == "data" else rf"{last}.* is missing"
        else:
            expected = says.format({dict: "an object", float: "a number", type(None): "nothing"}[type(wrong)])
        with pytest.raises(BadFileError, match=rf"bad\.json.*{expected}"):
            reader(corpus(file))


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ({"options": ["a", "b"], "gold_label": 3}, r"gold_label is 3, and the options have the numbers 1 to 2"),
        ({"options": ["a", "b"], "gold_label": 0}, r"gold_label is 0, and the options have the numbers 1 to 2"),
        ({"options": ["a", "b"], "gold_label": True}, r"gold_label is true or false, not a whole number"),
        ({"options": ["a"], "gold_label": 1}, r"options has 1 members, not 2 to 26"),
        ({"options": ["a"] * 27, "gold_label": 1}, r"options has 27 members, not 2 to 26"),
        ({"options": ["a", "b"]}, r"gold_label is missing in questions\[0\]"),
    ],
)
def test_choices_that_are_wrong(question: dict[str, Any], says: str, tmp_path: Path) -> None:
    line = {"article": "Text.", "questions": [{"question": "What?", **question}]}
    with pytest.raises(BadFileError, match=rf"q\.jsonl, line 1: .*{says}"):
        read_quality(corpus(made.write_lines(tmp_path / "q.jsonl", [line])))


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"question": "what?", "answer": "A"}, "has 0 choices"),
        (
            {"question": "what?", "options": ["a", "b"], "answer": "E"},
            "is not some of the letters AB|which is not some",
        ),
        ({"question": "what?", "options": ["a", "b"], "answer": ""}, "which is not some of the letters AB"),
        ({"questions": ["what?\nA. a\nB. b"], "answer": ["A", "B"]}, "has 2 members for 1 questions"),
        ({"questions": ["what?"], "options": [], "answer": ["A"]}, "has 0 choices"),
        ({"questions": ["what?"], "options": [["a"], ["b"]], "answer": ["A"]}, "2 lists of options for 1 questions"),
    ],
)
def test_toefl_questions_that_are_wrong(record: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match=rf"t\.jsonl, line 1: .*({says})"):
        read_toefl(corpus(made.write_lines(tmp_path / "t.jsonl", [{"context": "a .", **record}])))


def test_a_lone_surrogate_is_found(tmp_path: Path) -> None:
    content = squad_of(("Ada \ud83d built it.", [qa("Who?", "Ada")]))
    with pytest.raises(BadFileError, match=r"paragraphs\[0\]\.context holds half a character \(U\+D83D\)"):
        read_squad(corpus(made.write_json(tmp_path / "a.json", content)))


def test_huge_lines_and_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MOST_LINE", 1000)
    monkeypatch.setattr(formats, "MOST_BYTES", 1000)
    path = made.write_lines(tmp_path / "long.jsonl", [{"article": "x" * 2000, "questions": []}])
    monkeypatch.setattr(formats, "MOST_UNPACKED", 3000)
    short = {"article": "Text.", "questions": []}
    several = made.write_lines(tmp_path / "several.jsonl", [short, {"article": "x" * 2000}])
    many = made.write_lines(tmp_path / "many.jsonl", [short] * 100)
    for reader, _ in READERS.values():
        with pytest.raises(BadFileError, match=r"long\.jsonl holds more than 1,000 bytes, which is all"):
            reader(corpus(path))
        with pytest.raises(BadFileError, match=r"several\.jsonl, line 2 has more than 1,000 bytes|SQuAD|Hotpot|TOEFL"):
            reader(corpus(several))
    with pytest.raises(BadFileError, match=r"several\.jsonl, line 2 has more than 1,000 bytes"):
        read_quality(corpus(several))
    with pytest.raises(BadFileError, match=r"many\.jsonl unpacks to more than 3,000 bytes"):
        read_quality(corpus(many))


def test_a_line_of_a_hundred_megabytes_is_not_taken_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.jsonl"
    with path.open("wb") as file:
        file.truncate(100_000_000)  # zeros without a newline, which take no room on the disk
    with pytest.raises(BadFileError, match=r"huge\.jsonl, line 1 has more than 67,108,864 bytes"):
        read_quality(corpus(path))


def test_parquet_that_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = made.squad_rows(made.squad(1, 2))
    path = made.write_rows(tmp_path / "s.parquet", rows)
    whole = path.read_bytes()
    for kept in (4, 100, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:kept])
        with pytest.raises(BadFileError, match=r"s\.parquet, near row 0: cannot be read as Parquet"):
            read_squad(corpus(path))
    path = made.write_rows(tmp_path / "n.parquet", [{k: v for k, v in row.items() if k != "answers"} for row in rows])
    with pytest.raises(
        BadFileError, match=r"n\.parquet: is Parquet with the columns id, title, context, question; SQuAD is read"
    ):
        read_squad(corpus(path))
    path = made.write_rows(tmp_path / "v.parquet", [row | {"question": 3} for row in rows])
    with pytest.raises(BadFileError, match=r"v\.parquet, row 0: question is a whole number, not a text"):
        read_squad(corpus(path))
    path = made.write_rows(tmp_path / "z.parquet", [rows[0], rows[1] | {"context": None}])
    with pytest.raises(BadFileError, match=r"z\.parquet, row 1: context is missing"):
        read_squad(corpus(path))
    with monkeypatch.context() as patch:
        patch.setattr(formats, "MOST_UNPACKED", 10)
        with pytest.raises(BadFileError, match=r"z\.parquet unpacks to"):
            read_squad(corpus(path))
    uneven = made.hotpotqa_rows(made.hotpotqa(1))
    uneven[0]["context"]["title"].pop()
    with pytest.raises(BadFileError, match=r"row 0: context has 9 members of title and 10 of sentences"):
        read_hotpotqa(corpus(made.write_rows(tmp_path / "h.parquet", uneven)))


def test_a_file_without_questions(tmp_path: Path) -> None:
    content = squad_of(("Ada built it.", [qa("Who?", "Boris")]))
    with pytest.raises(BadFileError, match=r"a\.json holds no question that qa_squad can ask: 1 question whose answer"):
        read_squad(corpus(made.write_json(tmp_path / "a.json", content), "qa_squad"))
    with pytest.raises(BadFileError, match=r"holds no question"):
        read_squad(corpus(made.write_json(tmp_path / "b.json", {"data": []})))


def test_a_missing_file(tmp_path: Path) -> None:
    for reader, _ in READERS.values():
        with pytest.raises(BadFileError, match=r"gone\.json cannot be read: No such file"):
            reader(corpus(tmp_path / "gone.json"))
