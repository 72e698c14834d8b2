"""Corpora in the published formats, made up here: nothing of the real ones is in them."""

from __future__ import annotations

import atexit
import functools
import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sparse_tasks.generators.corpora import Corpus, find_corpora
from sparse_tasks.generators.qa.collection import Collection

_PEOPLE = ("Ada", "Boris", "Clara", "Dmitri", "Elsa", "Farid", "Greta", "Henrik", "Ines", "Jonas", "Kira", "Lorenz")
_TRADES = ("baker", "cooper", "dyer", "glazier", "joiner", "mason", "potter", "saddler", "tanner", "weaver")
_TOWNS = ("Alder", "Birken", "Corran", "Dunmoor", "Elsting", "Fenwick", "Garth", "Holm", "Ivel", "Kestrel")
_THINGS = ("bell", "bridge", "canal", "chapel", "fountain", "granary", "lighthouse", "mill", "quay", "tower")
_FILLER = (
    "The work took several winters, and nobody was in a hurry.",
    "It was paid for by the guild.",
    "Letters of that time tell of long rains, of roads that could not be used, and of a great many visitors.",
    "Some of it can still be seen.",
    "The plans were lost when the archive burned down, so that what is known of them comes from travellers.",
    "People were pleased.",
    "No other building in the valley is as old, apart from the two barns behind the church.",
)


def _facts(chance: random.Random, number: int) -> dict[str, str]:
    return {
        "who": f"{chance.choice(_PEOPLE)} {chance.choice(_TOWNS)}er{number}",
        "trade": chance.choice(_TRADES),
        "where": f"{chance.choice(_TOWNS)}-{number}",
        "what": chance.choice(_THINGS),
        "year": str(chance.randint(1400, 1899)),
    }


def _sentences(chance: random.Random, facts: dict[str, str], filler: int) -> list[str]:
    known = [
        f"The {facts['what']} of {facts['where']} was built in {facts['year']}.",
        f"Its builder was the {facts['trade']} {facts['who']}.",
    ]
    return [known[0], *chance.choices(_FILLER, k=filler // 2), known[1], *chance.choices(_FILLER, k=filler // 2)]


def squad(articles: int = 60, paragraphs: int = 8, seed: int = 1) -> dict[str, Any]:
    """SQuAD 2.0's JSON."""
    chance, data, number = random.Random(seed), [], 0
    for _ in range(articles):
        article: list[dict[str, Any]] = []
        for _ in range(paragraphs):
            number += 1
            facts = _facts(chance, number)
            context = " ".join(_sentences(chance, facts, chance.randint(2, 9)))
            asked = {
                f"Who built the {facts['what']} of {facts['where']}?": [
                    facts["who"],
                    facts["who"],
                    facts["who"].split()[0],
                ],
                f"When was the {facts['what']} of {facts['where']} built?": [facts["year"], f"in {facts['year']}"],
            }
            article.append(
                {
                    "context": context,
                    "qas": [
                        *(
                            {
                                "id": f"q{number}-{i}",
                                "question": question,
                                "is_impossible": False,
                                "answers": [{"text": text, "answer_start": context.index(text)} for text in answers],
                            }
                            for i, (question, answers) in enumerate(asked.items())
                        ),
                        {
                            "id": f"q{number}-x",
                            "question": f"Who tore the {facts['what']} down?",
                            "is_impossible": True,
                            "answers": [],
                            "plausible_answers": [{"text": facts["who"], "answer_start": 0}],
                        },
                    ],
                }
            )
        data.append({"title": f"History_of_{_TOWNS[len(data) % 10]}_{len(data)}", "paragraphs": article})
    return {"version": "v2.0", "data": data}


def squad_rows(published: dict[str, Any]) -> list[dict[str, Any]]:
    """The same as the Hub's rows."""
    return [
        {
            "id": qa["id"],
            "title": article["title"],
            "context": paragraph["context"],
            "question": qa["question"],
            "answers": {
                "text": [answer["text"] for answer in qa["answers"]],
                "answer_start": [answer["answer_start"] for answer in qa["answers"]],
            },
        }
        for article in published["data"]
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]


def quality(articles: int = 60, sentences: int = 60, seed: int = 2) -> list[dict[str, Any]]:
    """QuALITY's lines, release 1.0.1."""
    chance, lines = random.Random(seed), []
    for number in range(articles):
        facts = _facts(chance, number)
        reported = _sentences(chance, facts, sentences)
        paragraphs = [" ".join(reported[i : i + 4]) for i in range(0, len(reported), 4)]
        questions = []
        for what, of in (("Who built", "who"), ("When did they build", "year"), ("What was the trade behind", "trade")):
            options = list(dict.fromkeys([facts[of], *(_facts(chance, number)[of] for _ in range(12))]))[:5]
            chance.shuffle(options)
            questions.append(
                {
                    "question": f"{what} the {facts['what']} of {facts['where']}?",
                    "question_unique_id": f"{number}-{of}",
                    "options": options,
                    "writer_label": options.index(facts[of]) + 1,
                    "gold_label": options.index(facts[of]) + 1,
                    "difficult": 0,
                }
            )
        lines.append(
            {
                "article_id": str(number),
                "set_unique_id": f"{number}-set",
                "source": "made",
                "title": f"The {facts['what'].title()}",
                "author": "Nobody",
                "article": "\n\n".join(paragraphs),
                "questions": questions,
            }
        )
    return lines


def quality_rows(published: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same as the Hub's rows."""
    return [
        {
            "article": line["article"],
            "question": question["question"],
            "options": question["options"],
            "answer": question["gold_label"] - 1,
            "hard": False,
        }
        for line in published
        for question in line["questions"]
    ]


def toefl(passages: int = 70, sentences: int = 40, seed: int = 3) -> list[dict[str, Any]]:
    """TOEFL-QA's lines; every third question has two right choices."""
    chance, lines = random.Random(seed), []
    for number in range(passages):
        facts = _facts(chance, number)
        reported = [sentence.lower().replace(".", " .") for sentence in _sentences(chance, facts, sentences)]
        questions, answers = [], []
        for i in range(3):
            wrong = chance.sample([thing for thing in _THINGS if thing != facts["what"]], 4)
            right = [f"a {facts['what']}", f"something of {facts['year']}"][: 1 + (i == 2)]
            options = right + [f"a {thing}" for thing in wrong][: 5 - len(right)]
            chance.shuffle(options)
            listed = "\n".join(f"{'ABCDE'[k]}. {option}" for k, option in enumerate(options))
            ask = ("what was built in", "what does the professor describe in", "which two fit what the talk says of")[i]
            questions.append(f"Question: {ask} {facts['where']}?\n{listed}")
            answers.append("".join(sorted("ABCDE"[options.index(text)] for text in right)))
        lines.append({"context": " ".join(reported), "questions": questions, "answer": answers})
    return lines


def hotpotqa(questions: int = 80, seed: int = 4) -> list[dict[str, Any]]:
    """HotpotQA's JSON with distractors; every fifth answer is yes or no."""
    chance, records = random.Random(seed), []
    for number in range(questions):
        paragraphs = []
        for i in range(10):
            facts = _facts(chance, 10 * number + i)
            reported = _sentences(chance, facts, chance.randint(2, 5))
            paragraphs.append((facts, [reported[0], *(f" {sentence}" for sentence in reported[1:])]))
        one, two = paragraphs[0][0], paragraphs[1][0]
        paragraphs[1][1].append(f" It was copied from the {one['what']} of {one['where']}.")
        titles = [f"{facts['what'].title()} of {facts['where']}" for facts, _ in paragraphs]
        ask, answer = (
            (f"Were {one['where']} and {two['where']} both built by a {one['trade']}?", "yes" if one == two else "no")
            if number % 5 == 4
            else (
                f"In what year was that built from which the {two['what']} of {two['where']} was copied?",
                one["year"],
            )
        )
        shown = [[title, text] for title, (_, text) in zip(titles, paragraphs, strict=True)]
        chance.shuffle(shown)
        records.append(
            {
                "_id": f"h{number}",
                "answer": answer,
                "question": ask,
                "supporting_facts": [[titles[0], 0], [titles[1], 0], [titles[1], 1]],
                "context": shown,
                "type": "bridge",
                "level": "hard",
            }
        )
    return records


def hotpotqa_rows(published: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same as the Hub's rows."""
    return [
        {
            "id": record["_id"],
            "question": record["question"],
            "answer": record["answer"],
            "supporting_facts": {
                "title": [title for title, _ in record["supporting_facts"]],
                "sent_id": [sentence for _, sentence in record["supporting_facts"]],
            },
            "context": {
                "title": [title for title, _ in record["context"]],
                "sentences": [sentences for _, sentences in record["context"]],
            },
        }
        for record in published
    ]


def write_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_all(folder: Path) -> dict[str, str]:
    """A file of each corpus, as ``--corpus`` takes them."""
    return {
        "qa_squad": str(write_json(folder / "squad.json", squad())),
        "qa_quality": str(write_lines(folder / "quality.jsonl", quality())),
        "qa_toefl": str(write_lines(folder / "toefl.jsonl", toefl())),
        "qa_hotpotqa": str(write_json(folder / "hotpotqa.json", hotpotqa())),
    }


@functools.cache
def example_corpora() -> dict[str, Corpus]:
    """One of each, the same in every process."""
    folder = Path(tempfile.mkdtemp(prefix="made-corpora-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return find_corpora(write_all(folder))


def questions_of(collection: Collection) -> set[tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]]:
    """What a reader found: each question with its answers, choices and documents."""
    return {
        (one.text, one.answers, one.choices, tuple(collection.documents[i] for i in one.gold))
        for one in collection.questions
    }
