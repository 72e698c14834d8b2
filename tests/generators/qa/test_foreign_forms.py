"""Third-party corpora: every container, every way to write choices, any spacing, any script."""

from __future__ import annotations

import gzip
import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from sparse_tasks.core.errors import BadFileError, UsageError
from sparse_tasks.core.length import TOLERANCE
from sparse_tasks.core.tokenizers import PromptTokenizer, load_tokenizer
from sparse_tasks.generators.corpora import Corpus, find_corpora
from sparse_tasks.generators.qa.collection import Collection, comparable
from sparse_tasks.generators.qa.hotpotqa import read_hotpotqa
from sparse_tasks.generators.qa.packing import PackedTask, read_prompt
from sparse_tasks.generators.qa.quality import read_quality
from sparse_tasks.generators.qa.sentences import cut, fragments, join, pieces
from sparse_tasks.generators.qa.squad import read_squad
from sparse_tasks.generators.qa.toefl import read_toefl
from sparse_tasks.generators.ruler.essays import read_essays
from sparse_tasks.generators.sampling import make_sample
from sparse_tasks.generators.seeds import Stream
from tests import example_corpora as made
from tests import example_tokenizers
from tests.cli.program import run
from tests.generators.requests import make_request

Records = list[dict[str, Any]]


def corpus(path: Path, name: str = "qa_test") -> Corpus:
    return Corpus(name, (path,), "0" * 64, path.name, None)


# --- containers ----------------------------------------------------------------------------------------------

READERS: dict[str, Callable[[Corpus], Collection]] = {
    "squad": read_squad,
    "quality": read_quality,
    "toefl": read_toefl,
    "hotpotqa": read_hotpotqa,
}
SQUAD, QUALITY, HOTPOTQA = made.squad(4, 3), made.quality(3, 12), made.hotpotqa(6)
# Each corpus in the forms in which its records are published, by the project and on the Hub.
PUBLISHED: dict[str, list[Records]] = {
    "squad": [[SQUAD], SQUAD["data"], made.squad_rows(SQUAD)],
    "quality": [[line | {"title": ""} for line in QUALITY], made.quality_rows(QUALITY)],
    "toefl": [made.toefl(3, 8)],
    "hotpotqa": [HOTPOTQA, made.hotpotqa_rows(HOTPOTQA)],
}


def _lines(records: Records, end: str = "\n") -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + end for record in records).encode()


CONTAINERS: dict[str, Callable[[Records], bytes]] = {
    "JSON Lines": _lines,
    "JSON Lines with blank lines and a mark": lambda records: b"\xef\xbb\xbf\n" + _lines(records, "\r\n\r\n"),
    "JSON Lines without a last line end": lambda records: _lines(records).rstrip(),
    "JSON list": lambda records: json.dumps(records).encode(),
    "JSON list, indented": lambda records: b"\n" + json.dumps(records, indent=2, ensure_ascii=False).encode(),
    "gzip of JSON Lines": lambda records: gzip.compress(_lines(records)),
    "gzip of JSON": lambda records: gzip.compress(json.dumps(records, indent=1).encode()),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_any_container_of_any_published_form_holds_the_same(name: str, container: str, tmp_path: Path) -> None:
    expected = made.questions_of(READERS[name](corpus(made.write_lines(tmp_path / "lines", PUBLISHED[name][0]))))
    assert expected
    for i, records in enumerate(PUBLISHED[name]):
        path = tmp_path / f"{i}.data"
        path.write_bytes(CONTAINERS[container](records))
        assert made.questions_of(READERS[name](corpus(path))) == expected, i


def test_the_published_object_by_itself_is_read_too(tmp_path: Path) -> None:
    expected = made.questions_of(read_squad(corpus(made.write_json(tmp_path / "a", SQUAD))))
    for content in (json.dumps(SQUAD, indent=4).encode(), gzip.compress(json.dumps(SQUAD).encode())):
        (tmp_path / "b").write_bytes(content)
        assert made.questions_of(read_squad(corpus(tmp_path / "b"))) == expected


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("other", READERS)
def test_another_corpus_is_named_by_its_fields_with_what_is_read(name: str, other: str, tmp_path: Path) -> None:
    if name == other or {name, other} == {"quality", "toefl"}:  # which have a form in common
        return
    for i, records in enumerate(PUBLISHED[other]):
        path = made.write_lines(tmp_path / f"{i}.jsonl", records)
        fields = ", ".join(sorted(field for field, value in records[0].items() if value is not None))
        form = rf"\.jsonl, line 1: (.* is .*; )?the record has the fields? {fields}; .* is read from JSON"
        with pytest.raises(BadFileError, match=form) as caught:
            READERS[name](corpus(path))
        pq.write_table(pa.Table.from_pylist([{"id": 1, "text": "a"}]), tmp_path / "t.parquet")
        with pytest.raises(
            BadFileError, match=r"t\.parquet: is Parquet with the columns id, text; .* is read from JSON"
        ):
            READERS[name](corpus(tmp_path / "t.parquet"))
        assert caught.value.exit_code == 2


def test_a_truncated_gzip_is_reported(tmp_path: Path) -> None:
    content = gzip.compress(_lines(made.toefl(20, 20)))
    for share in (0.2, 0.6, 0.99):
        (tmp_path / "cut.gz").write_bytes(content[: int(share * len(content))])
        with pytest.raises(BadFileError, match=r"cut\.gz cannot be unpacked: .*is the file cut off"):
            read_toefl(corpus(tmp_path / "cut.gz"))


def test_a_corpus_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    path = made.write_json(tmp_path / "squad.json", SQUAD)
    twice = ("--corpus", f"qa_squad={path}", "--corpus", f"qa_squad={path}")
    done = run("generate", "-l", "2k", "-t", "qa_squad", *twice, "-o", str(tmp_path / "out"))
    assert done.code == 2
    assert "is a second source of qa_squad" in done.err


# --- choices -------------------------------------------------------------------------------------------------

WORDS = st.lists(st.text("abcdefghijklmnopqrstuvwxyzéü0123456789'", min_size=1, max_size=9), min_size=1, max_size=7)
PHRASES = WORDS.map(" ".join)
# How the published files and their conversions write choices in the question's text; TOEFL-QA's own is the first.
WRITINGS: dict[str, tuple[str, str, str]] = {
    "paper": ("Question: {}? Options: ", "{}.{}", " "),
    "blank": ("Question: {}? Options: ", "{}. {}", " "),
    "no heading": ("{}? ", "{}. {}", " "),
    "parentheses": ("Question 3: {}? Choices: ", "({}) {}", " "),
    "one parenthesis": ("{}?\n", "{}) {}", "  "),
    "QuALITY's": ("Question 3.{}? ", "{}. {}", " \n "),
    "QuALITY's, without blanks": ("Question 12.{}？", "{}. {}", "\n"),
    "QuALITY's, of orders": ("Question 4.Say of it that {}.", "{}. {}", "\n"),
    "lines": ("Question: {}?\n", "{}. {}", "\n"),
    "lines under a heading": ("{}?\nOptions:\n", "({}) {}", "\n"),
    "colons": ("{}?\n", "{}: {}", "\n"),
}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(ask=PHRASES, choices=st.lists(PHRASES, min_size=2, max_size=6, unique=True), data=st.data())
@pytest.mark.parametrize("writing", WRITINGS)
@pytest.mark.parametrize("reader", [read_toefl, read_quality])
def test_choices_in_the_questions_text(
    writing: str,
    reader: Callable[[Corpus], Collection],
    ask: str,
    choices: list[str],
    data: st.DataObject,
    tmp_path: Path,
) -> None:
    before, one, between = WRITINGS[writing]
    letters = "ABCDEF"[: len(choices)]
    right = sorted(data.draw(st.sets(st.sampled_from(letters), min_size=1, max_size=2)))
    text = before.format(ask) + between.join(map(one.format, letters, choices)) + " "
    record = {
        "context": "A text.",
        "context_len": 2,
        "questions": [text],
        "num_question": 1,
        "answer": ["".join(right)],
    }
    (question,) = reader(corpus(made.write_lines(tmp_path / "t.jsonl", [record]))).questions
    asked = before.removesuffix("Options: ").removesuffix("Options:\n").removesuffix("Choices: ").strip().format(ask)
    assert question.text == re.sub(r"^Question( \d+\.|:| 3:) *", "", asked)
    assert list(question.choices) == choices
    assert list(question.answers) == right


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("who? Options: A.Robert E. Lee B.Ulysses S. Grant ", ["Robert E. Lee", "Ulysses S. Grant"]),
        ("who? Options: A.vitamin C. B.vitamin D. ", ["vitamin C.", "vitamin D."]),
        ("what does B. F. Skinner say? Options: A.yes B.no", ["yes", "no"]),
        ("what? (A) a (B) b: A. c", ["a", "b: A. c"]),
        ("why? Options: A.to see a U.S. official B.to go C.x D.y", ["to see a U.S. official", "to go", "x", "y"]),
        (
            "why? Options: A.U.S. law B.at 9 A.M. C.at 9 P.M. D.U.N. law",
            ["U.S. law", "at 9 A.M.", "at 9 P.M.", "U.N. law"],
        ),
        ("where? A.Washington D.C. B.x C.in Washington D.C. D.y", ["Washington D.C.", "x", "in Washington D.C.", "y"]),
        ("where? A.x B.y C.Washington D.C.", ["x", "y", "Washington D.C."]),
        ("who? A.C.S. Lewis B.B.F. Skinner C.D.H. Lawrence D.x", ["C.S. Lewis", "B.F. Skinner", "D.H. Lawrence", "x"]),
        ("who leaves at 9 A.M.? A.a U.S. man B.John Smith", ["a U.S. man", "John Smith"]),
        ("who? A. Mr. J. Smith B. Mrs. U. Doe", ["Mr. J. Smith", "Mrs. U. Doe"]),
        (
            "Question 8.Why does I.V. Hendricks fly? A. Vitamin A. \n B. Mr. B. Franklin\n",
            ["Vitamin A.", "Mr. B. Franklin"],
        ),
        (
            "Question 9.What of A. Smith? A. It left. B. was late.\n B. It came.\n C. No\n",
            ["It left. B. was late.", "It came.", "No"],
        ),
    ],
)
def test_invalid_letters(text: str, choices: list[str], tmp_path: Path) -> None:
    record = {"context": "A text.", "questions": [text], "answer": ["A"]}
    (question,) = read_toefl(corpus(made.write_lines(tmp_path / "t.jsonl", [record]))).questions
    assert list(question.choices) == choices


def test_letters_that_do_not_follow_each_other_are_not_guessed(tmp_path: Path) -> None:
    texts = [
        "who? A.Lee C.Grant",
        "who? Options: A. Plan B. B. Plan C.",
        "who? B.x C.y",
        "who? A. x\nC. y\nD. z",
        "who? A.x B.y D.z",
        "who? A.x B.y C.of D.H. Lawrence",  # three choices, or four
        "who? A.x of B.F. Skinner or B.B. King C.y",
        "B.x A.y B.z",
    ]
    record = {"context": "A text.", "questions": [*texts, "who? A. x B. y"], "answer": ["A"] * (len(texts) + 1)}
    found = read_toefl(corpus(made.write_lines(tmp_path / "t.jsonl", [record])))
    assert len(found.questions) == 1
    assert found.left_out == {"whose choices cannot be told apart by the letters A, B, C and so on": len(texts)}


PLAIN = st.sampled_from(["to go", "a vitamin C", "the law.", "Robert E. Lee", "Dr. J. Smith", "Mr. x"])
SHORT = st.sampled_from(
    [
        "U.S. law",
        "at 9 A.M.",
        "at 10 P.M. sharp",
        "Washington D.C.",
        "300 B.C. and A.D. 20",
        "the U.N. and the U.K.",
        "an I.V. x",
    ]
)


@given(choices=st.lists(PLAIN | SHORT | st.tuples(PLAIN, SHORT).map(" ".join), min_size=2, max_size=5))
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_abbreviations_begin_no_choice_of_a_line(choices: list[str], tmp_path: Path) -> None:
    text = "Question: why? Options: " + " ".join(map("{}.{}".format, "ABCDE", choices))
    record = {"context": "A text.", "questions": [text], "answer": ["A"]}
    (question,) = read_toefl(corpus(made.write_lines(tmp_path / "t.jsonl", [record]))).questions
    assert (question.text, list(question.choices)) == ("why?", choices)


# --- comparisons, and what is left out -----------------------------------------------------------------------

SPACES = st.sampled_from([" ", "  ", "\u00a0", "\n", " \n ", "\u2009", "\t", "\u202f"])
FORMS = st.sampled_from(["NFC", "NFD"])
ACCENTED = st.lists(
    st.sampled_from(["café", "Zürich", "naïve", "Ångström", "한국", "ấm", "plain", "12"]), min_size=1, max_size=4
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=ACCENTED, spaces=st.lists(SPACES, min_size=8, max_size=8), forms=st.tuples(FORMS, FORMS))
def test_neither_spaces_nor_accents_leave_a_question_out(
    words: list[str], spaces: list[str], forms: tuple[str, str], tmp_path: Path
) -> None:
    def spaced(some: list[str]) -> str:
        return "".join(f"{word}{space}" for word, space in zip(words, some, strict=False)).rstrip()

    one, other = (
        unicodedata.normalize(form, spaced(some)) for form, some in zip(forms, (spaces, spaces[4:]), strict=True)
    )
    context = f"It was {one} that came."
    asked = [{"question": "What?", "answers": [{"text": other}]}]
    article = {"title": "T", "paragraphs": [{"context": context, "qas": asked}]}
    found = read_squad(corpus(made.write_json(tmp_path / "s.json", {"data": [article]})))
    assert not found.left_out
    record = {
        "question": "What?",
        "answer": other,
        "supporting_facts": [[f"{other} A", 0], ["B", 0]],
        "context": [[f"{one} A", [context]], ["B", ["Nothing."]]],
    }
    found = read_hotpotqa(corpus(made.write_lines(tmp_path / "h.jsonl", [record])))
    assert not found.left_out
    # And a perfect answer is found when the sample is checked.
    task = cast(PackedTask, make_request(["2k"], ["qa_squad"], corpora=_of("qa_squad", tmp_path / "s.json")).tasks[0])
    (question,) = task.collection().questions
    assert task.check(question, task.collection().documents) is None


def _of(name: str, path: Path) -> dict[str, Corpus]:
    return find_corpora({name: str(path)})


def test_missing_fields_are_not_invented(tmp_path: Path) -> None:
    asked = [{"question": f"{text}?", "answers": [{"text": text}]} for text in ("cafés", "Zurich", "New  Yorks")]
    article = {"title": "T", "paragraphs": [{"context": "A café in Zürich, not New York.", "qas": asked}]}
    with pytest.raises(BadFileError, match="3 questions whose answer is not in their document"):
        read_squad(corpus(made.write_json(tmp_path / "s.json", {"data": [article]})))


REASONS: dict[str, dict[str, Any]] = {
    "that cannot be answered": {"is_impossible": True},
    "without words": {"question": " "},
    "without an answer": {"answers": []},
    "whose answer has no letter or digit": {"answers": [{"text": "—"}]},
    "whose answer is not in their document": {"answers": [{"text": "Boris"}]},
    "that hold 'The documents end here.', by which prompts are read": {"question": "The documents end here."},
}


@given(kinds=st.lists(st.sampled_from([None, *REASONS]), min_size=1, max_size=30))
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_question_is_asked_or_left_out_for_its_own_reason(kinds: list[str | None], tmp_path: Path) -> None:
    good = {"answers": [{"text": "Ada"}]}
    asked = [{"question": f"Who, {i}?", **good, **(REASONS[kind] if kind else {})} for i, kind in enumerate(kinds)]
    article = {"title": "T", "paragraphs": [{"context": "Ada came.", "qas": [*asked, {"question": "Who?", **good}]}]}
    found = read_squad(corpus(made.write_json(tmp_path / "s.json", {"data": [article]})))
    assert found.left_out == {reason: kinds.count(reason) for reason in REASONS if reason in kinds}
    assert len(found.questions) == kinds.count(None) + 1


def test_documents_and_paragraphs_that_cannot_be_used_have_their_reasons(tmp_path: Path) -> None:
    def article(context: str) -> dict[str, Any]:
        return {
            "title": "",
            "paragraphs": [{"context": context, "qas": [{"question": "Who?", "answers": [{"text": "Ada"}]}]}],
        }

    content = {"data": [article("Ada."), article(" "), article("Ada.\nDocument 7\nBoris.")]}
    found = read_squad(corpus(made.write_json(tmp_path / "s.json", content)))
    assert found.left_out == {
        "whose document is empty": 1,
        "whose document holds a line like a heading of this package": 1,
    }


def test_questions_about_documents_that_are_too_long_are_counted(qwen: PromptTokenizer, tmp_path: Path) -> None:
    content = made.squad(2, 2)
    content["data"][0]["paragraphs"][0]["context"] += " And so on." * 4000
    path = made.write_json(tmp_path / "s.json", content)
    (task,) = make_request(["4k"], ["qa_squad"], corpora=_of("qa_squad", path)).tasks
    assert task.notices(qwen) == ["qa_squad: left out 2 questions about a document of more than 8,192 tokens"]
    done = run(
        "generate",
        "-l",
        "2k",
        "-t",
        "qa_squad",
        "--corpus",
        f"qa_squad={path}",
        "-n",
        "1",
        "-o",
        tmp_path / "d",
        "-w",
        "1",
        "--allow-repeats",
    )
    assert "left out 4 questions that cannot be answered" in done.err
    assert "left out 2 questions about a document of more than" in done.err.replace("\n", " ")


def test_the_same_words_with_other_choices_are_another_question(tmp_path: Path) -> None:
    records = [
        {"context": "A text.", "question": "What is true?", "options": options, "answer": "A"}
        for options in (["one", "two"], ["three", "four"], ["one", "two"])
    ]
    found = read_toefl(corpus(made.write_lines(tmp_path / "t.jsonl", records)))
    assert [question.choices for question in found.questions] == [("one", "two"), ("three", "four")]
    assert found.left_out == {"that occur twice": 1}


def test_a_title_over_several_paragraphs(tmp_path: Path) -> None:
    def record(*context: tuple[str, str]) -> dict[str, Any]:
        facts = [["Ada", 0], ["Boris", 0]]
        listed = [[title, [text]] for title, text in context]
        return {"question": f"Who, {len(context)}?", "answer": "potter", "supporting_facts": facts, "context": listed}

    ada, boris, clara = (
        ("Ada", "A potter."),
        ("Boris", "A baker."),
        ("Clara", "One."),
    )
    records = [
        record(ada, boris),
        record(ada, boris, ada),  # the same paragraph twice
        record(ada, boris, clara, ("Clara", "Another.")),  # both stay as distractors
        record(ada, boris, ("Ada", "A queen."), clara, clara),
        record(ada, clara, clara, clara, clara, clara),
    ]
    found = read_hotpotqa(corpus(made.write_lines(tmp_path / "h.jsonl", records)))
    assert [len(question.near) for question in found.questions] == [2, 2, 4]
    assert found.left_out == {
        "of which one title stands over several paragraphs": 1,
        "of which 1 paragraph is missing": 1,
    }


# --- scripts -------------------------------------------------------------------------------------------------

CHINESE = "他们在河边修建了一座桥工作持续了几个冬天没有人着急许多旅客经过这里钟楼至今还在"
JAPANESE = "彼らは川のそばに橋を架けた仕事は何度かの冬にわたって続き急ぐ人はいなかった"
THAI = "พวกเขาสร้างสะพานริมแม่น้ำงานใช้เวลาหลายฤดูหนาวและไม่มีใครรีบร้อนนักเดินทางจำนวนมากผ่านมาที่นี่หอนาฬิกาของเมืองยังคงอยู่"
BURMESE = "မြို့ထဲရှိနာရီစင်သည်ယခုတိုင်ရှိနေသေးသည်"


def _prose(letters: str, stop: str, comma: str, sentence: int, length: int, stream: Stream) -> str:
    """A paragraph of words in a script, with at least this many characters."""
    text = ""
    while len(text) < length:
        at = stream.below(len(letters))
        part = (letters * 3)[at : at + stream.between(max(4, sentence // 2), sentence)]
        text += part + (comma if stream.below(3) == 0 and comma else stop)
    return text.strip() + stop.strip()


SCRIPTS: dict[str, tuple[str, str, str]] = {  # letters, stop, comma
    "Chinese": (CHINESE, "。", "，"),
    "Chinese, excited": (CHINESE, "！", ""),
    "Chinese without stops": (CHINESE, "", ""),
    "Japanese": (JAPANESE, "。", "、"),
    "Thai": (THAI, " ", ""),
    "Thai without blanks": (THAI, "", ""),
    "Burmese": (BURMESE, "။ ", "၊ "),
    "English without stops": (
        "they built a bridge and nobody was in a hurry so the work took several winters ",
        " ",
        "",
    ),
}


def _paragraphs(script: str, length: int, n: int) -> list[str]:
    letters, stop, comma = SCRIPTS[script]
    return [_prose(letters, stop, comma, 40, length, Stream("prose", script, length, i)) for i in range(n)]


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(("length", "between"), [(300, "\n"), (1380, "\n\n"), (1380, "\n"), (20_000, "\n\n")])
def test_essays_of_any_script_fill_any_length(
    script: str, length: int, between: str, qwen: PromptTokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "essays.txt"
    path.write_text(between.join(_paragraphs(script, length, 24_000 // length)), encoding="utf-8")
    for task in ("ruler_niah_single_2", "ruler_niah_multivalue"):
        for size in (2048, 8192):
            request = make_request([size], [task], 1, corpora=_of("essays", path))
            sample = make_sample(request, qwen, request.tasks[0], size, 0)
            assert size - TOLERANCE <= sample.input_tokens <= size
            assert request.tasks[0].oracle(sample.prompt) == sample.answer


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("made_tokenizer", [example_tokenizers.byte_level, example_tokenizers.llama])
def test_essays_of_scripts_that_a_tokenizer_spells_in_bytes(
    script: str, made_tokenizer: Callable[[], Tokenizer], tmp_path: Path
) -> None:
    (tmp_path / "essays.txt").write_text("\n".join(_paragraphs(script, 1380, 17)), encoding="utf-8")
    request = make_request([2048], ["ruler_niah_multivalue"], 1, corpora=_of("essays", tmp_path / "essays.txt"))
    tokenizer = load_tokenizer(str(example_tokenizers.save(made_tokenizer(), tmp_path / "tokenizer")))
    assert 2048 - TOLERANCE <= make_sample(request, tokenizer, request.tasks[0], 2048, 0).input_tokens <= 2048


@pytest.mark.parametrize("script", SCRIPTS)
def test_essays_keep_every_character_in_order(script: str, tmp_path: Path) -> None:
    (tmp_path / "essays.txt").write_text("\n".join(_paragraphs(script, 1380, 8)), encoding="utf-8")
    read = read_essays(_of("essays", tmp_path / "essays.txt")["essays"])
    written = "".join((tmp_path / "essays.txt").read_text(encoding="utf-8").split())
    assert "".join("".join(sentence.split()) for paragraph in read for sentence in paragraph) == written
    if script.startswith(("Chinese", "Japanese")):
        assert "".join(join(paragraph) for paragraph in read) == written  # no blank where there was none
    if script in ("Chinese", "Japanese"):
        assert all(sentence[-1] in "。，、" for paragraph in read for sentence in paragraph)


def test_data_in_letters_is_still_no_essay(tmp_path: Path) -> None:
    (tmp_path / "essays.txt").write_text(f"{CHINESE}\n" * 200 + "QUJD" * 300)
    with pytest.raises(BadFileError, match="line 201: a word of 1,000 characters"):
        read_essays(_of("essays", tmp_path / "essays.txt")["essays"])


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("task", ["qa_squad", "ruler_qa_1"])
def test_documents_of_any_script_fill_any_length(script: str, task: str, qwen: PromptTokenizer, tmp_path: Path) -> None:
    contexts = [f"{i}{text}" for i, text in enumerate(_paragraphs(script, 500, 100))]
    paragraphs = [
        {"context": text, "qas": [{"question": f"{i}?", "answers": [{"text": text[:6]}]}]}
        for i, text in enumerate(contexts)
    ]
    path = made.write_json(tmp_path / "s.json", {"data": [{"title": "T", "paragraphs": paragraphs}]})
    for size in (2048, 8192):
        request = make_request([size], [task], 2, corpora=_of("qa_squad", path))
        for index in range(2):
            sample = make_sample(request, qwen, request.tasks[0], size, index)
            assert size - TOLERANCE <= sample.input_tokens <= size
            shown = read_prompt(sample.prompt, task == "qa_squad").documents
            assert all(any(f"T\n{text}".startswith(part) for text in contexts) for part in shown)


@given(st.text(st.sampled_from("กำนี้ที่e\u0301👩‍👧한ấ🇩🇪नि "), min_size=1, max_size=200), st.integers(1, 40))
@settings(deadline=None)
def test_no_character_is_cut_in_two(text: str, most: int) -> None:
    import regex

    whole = set(regex.findall(r"\X", text))
    for end in fragments(text):
        assert set(regex.findall(r"\X", text[:end])) <= whole
    assert "".join("".join(pieces(text, most)).split()) == "".join(text.split())
    for part in pieces("ก" * 500 + text.replace(" ", "").lstrip("\u0301"), most + 5):
        assert not unicodedata.category(part[0]).startswith("M")


def test_a_text_without_divisions_is_cut_at_characters() -> None:
    found = cut("ที่นี่" * 200, 103, len)
    assert found is not None
    assert 95 <= len(found[0]) <= 101
    assert len(found[0]) + 2 == found[1]
    assert cut("A sentence that is long. " * 2, 10, len) is None


def test_hotpotqas_sentences_are_joined_with_a_blank_where_they_carry_none(tmp_path: Path) -> None:
    record = {
        "question": "Who?",
        "answer": "Ada",
        "supporting_facts": [["A", 0], ["B", 0]],
        "context": [
            ["A", ["Ada came.", " She stayed.", "She left. ", "Nobody knew.", "", "So."]],
            ["B", ["是。", "不是。"]],
        ],
    }
    found = read_hotpotqa(corpus(made.write_lines(tmp_path / "h.jsonl", [record])))
    assert found.documents == ("A\nAda came. She stayed. She left. Nobody knew. So.", "B\n是。不是。")


def test_comparable_is_the_same_for_what_was_cleaned() -> None:
    for text in ("a\x1fb", "a\u2028b", "a\x85 b", "\ufeffa", "co\u00adop"):
        assert comparable(text) == comparable(comparable(text))
    with pytest.raises(UsageError, match="is not a file"):
        find_corpora({"qa_squad": "nowhere"})
