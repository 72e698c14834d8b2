"""Documents around a question: which, how many, in what order, and to what length."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest

from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.core.length import TOLERANCE
from sparse_tasks.core.sample import Sample
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.generators.corpora import Corpus, find_corpora, mount, read
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.qa.collection import Collection
from sparse_tasks.generators.qa.packing import PackedTask, _places, read_prompt
from sparse_tasks.generators.qa.sentences import cut, sentence_ends
from sparse_tasks.generators.request import Request
from sparse_tasks.generators.sampling import check_lengths, make_sample
from sparse_tasks.generators.seeds import Stream
from tests import example_corpora as made
from tests.example_corpora import example_corpora
from tests.generators.requests import make_request

CORPUS = {
    "qa_squad": "qa_squad",
    "qa_quality": "qa_quality",
    "qa_toefl": "qa_toefl",
    "qa_hotpotqa": "qa_hotpotqa",
    "ruler_qa_1": "qa_squad",
    "ruler_qa_2": "qa_hotpotqa",
}
NAMED = ("qa_squad", "qa_quality", "qa_toefl")


def request_of(name: str, length: int = 3000, samples: int = 10, corpus: Corpus | None = None, **more: Any) -> Request:
    found = example_corpora()[CORPUS[name]] if corpus is None else corpus
    return make_request([length], [name], samples, corpora={CORPUS[name]: found}, **more)


def samples_of(tokenizer: PromptTokenizer, request: Request) -> list[Sample]:
    task, length = request.tasks[0], request.lengths[0]
    return [make_sample(request, tokenizer, task, length, index) for index in range(request.samples)]


def collection_of(name: str) -> Collection:
    return cast(PackedTask, request_of(name).tasks[0]).collection()


def squad_file(path: Path, contexts: list[str]) -> Corpus:
    """A corpus with a question on the first word of each paragraph."""
    paragraphs = [
        {"context": text, "qas": [{"question": f"What is {i}?", "answers": [{"text": text.split()[0]}]}]}
        for i, text in enumerate(contexts)
    ]
    content = {"data": [{"title": "T", "paragraphs": paragraphs}]}
    return find_corpora({"qa_squad": str(made.write_json(path, content))})["qa_squad"]


@pytest.mark.parametrize("name", CORPUS)
def test_documents_are_whole_different_and_numbered_but_for_one_that_is_cut(name: str, qwen: PromptTokenizer) -> None:
    documents = collection_of(name).documents
    for sample in samples_of(qwen, request_of(name)):
        shown = read_prompt(sample.prompt, name in NAMED).documents
        assert len(shown) == json.loads(sample.params)["drawn"]["documents"] == len(set(shown))
        parts = [text for text in shown if text not in documents]
        assert len(parts) <= 1
        for part in parts:
            assert any(whole.startswith(part) for whole in documents)
            assert part.endswith(".")


@pytest.mark.parametrize("name", CORPUS)
def test_gold_documents_are_whole_and_marked(name: str, qwen: PromptTokenizer) -> None:
    collection = collection_of(name)
    for sample in samples_of(qwen, request_of(name)):
        asked = read_prompt(sample.prompt, name in NAMED)
        (question,) = (q for q in collection.by_text[asked.text] if q.choices == asked.choices)
        gold = {collection.documents[index] for index in question.gold}
        assert gold <= set(asked.documents)
        if name in NAMED:
            assert set(asked.about) == gold
        marked = [sample.prompt[span.start : span.end] for span in sample.evidence]
        assert {text.partition("\n")[2] for text in marked} == gold
        for text, span in zip(marked, sample.evidence, strict=True):
            assert text.partition("\n")[0] == span.label
        assert (sample.answers, sample.answer) == (list(question.answers), question.answer)


def chi_square(counts: list[int]) -> float:
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 / expected for count in counts)


@pytest.mark.parametrize("name", ["qa_squad", "qa_hotpotqa"])
def test_gold_stands_anywhere_with_the_same_chance(name: str, qwen: PromptTokenizer) -> None:
    # RULER's and lm-eval's gold document is always the last of twenty.
    request = request_of(name, 2500, samples=80 if name == "qa_hotpotqa" else 150)
    counts, chance = [0] * 8, random.Random(0)
    for sample in samples_of(qwen, request):
        n = json.loads(sample.params)["drawn"]["documents"]
        for span in sample.evidence:
            place = int(span.label.split()[1]) - 1
            # Anywhere within its slot, as a few dozen slots do not divide evenly by eight.
            counts[int((place + chance.random()) / n * 8)] += 1
    assert chi_square(counts) < 24.3  # seven degrees of freedom, one in a thousand


@pytest.mark.parametrize(("depth", "low", "high"), [("0", 0, 0.01), ("1", 0.85, 1), ("0.4-0.6", 0.3, 0.65)])
@pytest.mark.parametrize("name", ["qa_squad", "qa_toefl", "ruler_qa_1"])
def test_depth_steers(name: str, depth: str, low: float, high: float, qwen: PromptTokenizer) -> None:
    request = request_of(name, 9000, samples=3, depth=depth)
    spans = [span for sample in samples_of(qwen, request) for span in sample.evidence]
    assert all(low <= span.depth <= high for span in spans)


def test_two_gold_documents_stand_apart_and_in_either_order() -> None:
    stream = Stream("places")
    for n in (4, 5, 12):
        drawn = [tuple(_places(Depth(), stream, n, 2)) for _ in range(2000)]
        assert all(abs(one - two) > 1 for one, two in drawn)
        for side in (0, 1):
            counts = Counter(pair[side] for pair in drawn)
            assert chi_square([counts[i] for i in range(n)]) < 31.3  # eleven degrees of freedom, one in a thousand
        assert 0.4 < sum(one < two for one, two in drawn) / len(drawn) < 0.6
    for n in (2, 3):
        assert all(len(set(_places(Depth(), stream, n, 2))) == 2 for _ in range(50))
    inside = [_places(Depth(0.5, 0.75), stream, 100, 2) for _ in range(50)]
    assert all(50 <= place <= 75 for pair in inside for place in pair)


@pytest.mark.parametrize("name", ["qa_hotpotqa", "ruler_qa_1", "ruler_qa_2"])
def test_documents_that_came_with_a_question_go_first(name: str, qwen: PromptTokenizer) -> None:
    collection = collection_of(name)
    for sample in samples_of(qwen, request_of(name, 4000, samples=4)):
        asked = read_prompt(sample.prompt, False)
        (question,) = collection.by_text[asked.text]
        assert {collection.documents[index] for index in question.near} <= set(asked.documents)
        assert len(question.near) < len(asked.documents)


def test_distractors_differ_from_sample_to_sample(qwen: PromptTokenizer) -> None:
    shown = [
        set(read_prompt(sample.prompt, True).documents)
        for sample in samples_of(qwen, request_of("qa_squad", 3000, samples=6))
    ]
    assert all(len(one & two) < len(one) / 3 for i, one in enumerate(shown) for two in shown[:i])


def test_questions_are_drawn_without_repetition_and_are_the_same_at_every_length(qwen: PromptTokenizer) -> None:
    request = request_of("qa_quality", 3000, samples=180)
    tasks = [cast(PackedTask, request.tasks[0].at(qwen, 42, index)) for index in range(180)]
    assert len({task._bound().question for task in tasks}) == 180
    short, long = (samples_of(qwen, request_of("qa_squad", n, samples=3)) for n in (2000, 5000))
    assert [read_prompt(s.prompt, True).text for s in short] == [read_prompt(s.prompt, True).text for s in long]
    other = samples_of(qwen, request_of("qa_squad", 2000, samples=3, seed=43))
    assert [s.answer for s in other] != [s.answer for s in short]


def test_more_samples_than_questions(qwen: PromptTokenizer) -> None:
    request = request_of("qa_quality", 3000, samples=400)
    with pytest.raises(UsageError, match="samples: 400 is more than the 180 questions of qa_quality"):
        check_lengths(request, qwen)
    again = request_of("qa_quality", 3000, samples=181, allow_repeats=True)
    one, two = (make_sample(again, qwen, again.tasks[0], 3000, index) for index in (0, 180))
    assert read_prompt(one.prompt, True).text == read_prompt(two.prompt, True).text
    assert one.prompt != two.prompt


# --- length --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CORPUS)
def test_the_smallest_length_is_named_and_works(name: str, qwen: PromptTokenizer) -> None:
    with pytest.raises(UsageError, match=f"too short for {name}; the smallest that works is") as error:
        check_lengths(request_of(name, 300, samples=5), qwen)
    smallest = int(str(error.value).split()[-1])
    request = request_of(name, smallest, samples=5)
    check_lengths(request, qwen)
    for length in (smallest, smallest + 1, smallest + 450):
        samples = samples_of(qwen, request_of(name, length, samples=5))
        assert all(sample.input_tokens <= length for sample in samples)
        if length > smallest + 400:
            assert all(length - TOLERANCE <= sample.input_tokens for sample in samples)
    with pytest.raises(UsageError, match="too short"):
        check_lengths(request_of(name, smallest - 1, samples=5), qwen)


def test_a_gold_document_above_eight_thousand_tokens_is_left_out(tmp_path: Path, qwen: PromptTokenizer) -> None:
    long = "Word " + "and so it went on. " * 1700
    corpus = squad_file(tmp_path / "long.json", [long, *(f"Ada{i} came. She left." for i in range(20))])
    request = request_of("qa_squad", 9000, samples=20, corpus=corpus)
    task = cast(PackedTask, request.tasks[0])
    asked = {cast(PackedTask, task.at(qwen, 42, i))._bound().question.text for i in range(20)}
    assert asked == {f"What is {i}?" for i in range(1, 21)}
    with pytest.raises(UsageError, match="more than the 20 questions"):
        task.at(qwen, 42, 20)
    # It may be one of several.
    sample = make_sample(request, qwen, task, 9000, 0)
    assert "and so it went on. and so it went on." in sample.prompt
    only = request_of("qa_squad", 9000, samples=1, corpus=squad_file(tmp_path / "only.json", [long]))
    with pytest.raises(UsageError, match="has no question about a document of 8,192 tokens or fewer"):
        check_lengths(only, qwen)


def test_an_error_says_how_far_the_corpus_reaches(qwen: PromptTokenizer) -> None:
    with pytest.raises(UsageError, match="is more than qa_quality has text for, which ends at about") as error:
        check_lengths(request_of("qa_quality", 90_000, samples=3), qwen)
    end = int(str(error.value).partition("about ")[2].split()[0].replace(",", ""))
    request = request_of("qa_quality", end - 100, samples=1)
    (sample,) = samples_of(qwen, request)
    assert len(read_prompt(sample.prompt, True).documents) in (59, 60)


def test_documents_repeat_if_asked(tmp_path: Path, qwen: PromptTokenizer) -> None:
    corpus = squad_file(tmp_path / "few.json", [f"Ada{i} came to town. She left. It rained." for i in range(12)])
    with pytest.raises(UsageError, match="--allow-repeats"):
        check_lengths(request_of("qa_squad", 4000, corpus=corpus), qwen)
    request = request_of("qa_squad", 4000, corpus=corpus, allow_repeats=True)
    check_lengths(request, qwen)
    for sample in samples_of(qwen, request):
        assert 4000 - TOLERANCE <= sample.input_tokens <= 4000
        asked = read_prompt(sample.prompt, True)
        counts = Counter(asked.documents)
        assert counts[asked.about[0]] == 1
        whole = [n for text, n in counts.items() if text.endswith("rained.") and text not in asked.about]
        assert max(whole) - min(whole) <= 1
        assert json.loads(sample.params)["repeats"] is True


def test_a_corpus_of_one_document_ends_there(tmp_path: Path, qwen: PromptTokenizer) -> None:
    corpus = squad_file(tmp_path / "one.json", ["Ada came to town."])
    for repeats in (False, True):
        request = request_of("qa_squad", 2000, samples=1, corpus=corpus, allow_repeats=repeats)
        with pytest.raises(UsageError, match="more than qa_squad has text for"):
            make_sample(request, qwen, request.tasks[0], 2000, 0)


def test_a_sample_costs_little_more_than_to_encode_it_once(
    qwen: PromptTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of("qa_quality", 30_000, samples=4)
    make_sample(request, qwen, request.tasks[0], 30_000, 3)
    spent, encoded = 0, qwen._encoded

    def counted(text: str, special: bool = False) -> int:
        nonlocal spent
        tokens = encoded(text, special)
        spent += tokens
        return tokens

    monkeypatch.setattr(qwen, "_encoded", counted)
    for index in range(3):
        make_sample(request, qwen, request.tasks[0], 30_000, index)
    assert spent < 1.3 * 3 * 30_000


def test_completions_of_ruler(qwen: PromptTokenizer) -> None:
    for name in ("ruler_qa_1", "ruler_qa_2"):
        (sample,) = samples_of(qwen, request_of(name, 3000, samples=1, preset="ruler"))
        assert (sample.metric, sample.max_new_tokens) == ("string_match_part", 32)
        assert sample.prompt.endswith("\n\nAnswer:")
        assert "<answer>" not in sample.prompt
        assert read_prompt(sample.prompt, False).text in sample.question


# --- checking ------------------------------------------------------------------------------------------------


def tampered(prompt: str, old: str, new: str) -> str:
    assert old in prompt
    return prompt.replace(old, new)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", CORPUS)
def test_answers_are_checked_with_the_corpus_and_without(name: str, known: bool, qwen: PromptTokenizer) -> None:
    request = request_of(name)
    task = request.tasks[0] if known else type(request.tasks[0]).from_settings({"corpus": "f" * 64})
    for sample in samples_of(qwen, request):
        assert task.verify(sample.prompt, sample.answer, sample.answers) is None
        for wrong in ("Nobody", "Xyzzy") if sample.metric == "token_f1" else ("Nobody", "F", ""):
            assert task.verify(sample.prompt, wrong, [wrong]) is not None
        assert task.verify(sample.prompt, "Nobody", sample.answers) is not None
        if known:
            assert task.oracle(sample.prompt) == sample.answer
            with pytest.raises(DataError, match="the corpus has no question"):
                task.verify(tampered(sample.prompt, "?", "??"), sample.answer, sample.answers)
        else:
            with pytest.raises(DataError, match="cannot answer without its corpus"):
                task.oracle(sample.prompt)
        for old, new in (("The documents end here.", "So much for that."), ("\nDocument 2\n", "\nDocument 3\n")):
            with pytest.raises(DataError):
                task.verify(tampered(sample.prompt, old, new), sample.answer, sample.answers)
        if name in NAMED:
            changed = re.sub(r"is about document \d+\.", "is about document 999.", sample.prompt)
            with pytest.raises(DataError, match="the question is about document 999, and there are"):
                task.verify(changed, sample.answer, sample.answers)


def test_the_same_question_about_several_documents(tmp_path: Path, qwen: PromptTokenizer) -> None:
    paragraphs = [
        {"context": f"Ada{i} came. She left.", "qas": [{"question": "Who came?", "answers": [{"text": f"Ada{i}"}]}]}
        for i in range(60)
    ]
    path = made.write_json(tmp_path / "same.json", {"data": [{"title": "T", "paragraphs": paragraphs}]})
    corpus = find_corpora({"qa_squad": str(path)})["qa_squad"]
    for name in ("qa_squad", "ruler_qa_1"):
        request = request_of(name, 700, corpus=corpus)
        for sample in samples_of(qwen, request):
            assert request.tasks[0].verify(sample.prompt, sample.answer, sample.answers) is None
    with pytest.raises(DataError, match="several answers to 'Who came"):
        request.tasks[0].oracle(sample.prompt)


def test_a_gold_document_that_is_changed_is_found(qwen: PromptTokenizer) -> None:
    request = request_of("qa_squad")
    sample = samples_of(qwen, request)[0]
    asked = read_prompt(sample.prompt, True)
    changed = tampered(sample.prompt, asked.about[0], "History\nNothing was built.")
    with pytest.raises(DataError, match="about that document"):
        request.tasks[0].verify(changed, sample.answer, sample.answers)
    blind = type(request.tasks[0]).from_settings({"corpus": "f" * 64})
    assert "is not in the document" in cast(str, blind.verify(changed, sample.answer, sample.answers))


def test_a_corpus_is_read_once(tmp_path: Path) -> None:
    corpus = squad_file(tmp_path / "a.json", ["Ada came."])
    mount([corpus])
    calls = []

    def reader(corpus: Corpus) -> int:
        calls.append(corpus)
        return len(calls)

    assert [read(corpus.sha256, reader) for _ in range(3)] == [1, 1, 1]
    with pytest.raises(DataError, match="is not available; name its file with --corpus"):
        read("e" * 64, reader)


# --- sentences -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", " Two!", " Three?"]),
        ("Mr. J. Ames paid 3.50 to St. Ives. He left.", ["Mr. J. Ames paid 3.50 to St. Ives.", " He left."]),
        ('"Go!" he said. "Why?"', ['"Go!" he said.', ' "Why?"']),
        ("it was. then it was not. so be it.", ["it was.", " then it was not.", " so be it."]),
        ("so it was . then it was not .", ["so it was .", " then it was not ."]),
        ("Nothing ends here", []),
        ("A heading\nand a line.\nAnother", ["A heading\nand a line."]),
        ("It was e.g. this one. (And that.) So.", ["It was e.g. this one.", " (And that.)", " So."]),
        ("", []),
        ("你好。再见！是吗？好", ["你好。", "再见！", "是吗？"]),
        ("「そうか。」彼は言った。", ["「そうか。」", "彼は言った。"]),
        ("他问:真的吗?是的!好。", ["他问:真的吗?", "是的!", "好。"]),
        ("यह सच है। वह गया।", ["यह सच है।", " वह गया।"]),
        ("هل هذا صحيح؟ نعم۔", ["هل هذا صحيح؟", " نعم۔"]),
        ("π is 3.14。Is it?Yes.", ["π is 3.14。", "Is it?Yes."]),
    ],
)
def test_where_sentences_end(text: str, sentences: list[str]) -> None:
    ends = sentence_ends(text)
    assert [text[start:end] for start, end in zip([0, *ends], ends, strict=False)] == sentences


def test_a_text_is_cut_as_long_as_there_is_room() -> None:
    text = "T\nOne two. Three four five. Six.\n\nSeven eight. Nine ten eleven.\nTwelve."
    cost = len  # a following empty line counts too

    for room in range(len(text) + 5):
        found = cut(text, room, cost)
        fitting = [end for end in sentence_ends(text) if end + 2 <= room]
        assert found == ((text[: fitting[-1]], fitting[-1] + 2) if fitting else None)


def test_candidates_are_tried_until_one_fits(tmp_path: Path, qwen: PromptTokenizer) -> None:
    # One long sentence each: next to none can be cut, so that documents have to make room for each other.
    contexts = [f"Ada{i} " + "went on and on " * (20 + i) + "at last." for i in range(60)]
    contexts += [f"Bo{i} came. He stayed for a while. Then he went." for i in range(10)]
    corpus = squad_file(tmp_path / "hard.json", contexts)
    request = request_of("qa_squad", 3000, samples=10, corpus=corpus)
    for sample in samples_of(qwen, request):
        assert 3000 - TOLERANCE <= sample.input_tokens <= 3000


@pytest.mark.parametrize("end", ["", " at last."])
def test_documents_without_sentences_are_cut_at_words(end: str, tmp_path: Path, qwen: PromptTokenizer) -> None:
    contexts = [f"Ada{i} " + "went on and on " * (100 if not end else 20) + end for i in range(60)]
    corpus = squad_file(tmp_path / "endless.json", contexts)
    request = request_of("qa_squad", 3000, samples=3, corpus=corpus)
    check_lengths(request, qwen)
    for sample in samples_of(qwen, request):
        assert 3000 - TOLERANCE <= sample.input_tokens <= 3000
