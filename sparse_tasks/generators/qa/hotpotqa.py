"""HotpotQA: an open question that needs two paragraphs of Wikipedia among many (high dispersion, low scope)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sparse_tasks.generators.corpora import CORPORA, Corpus, Kind
from sparse_tasks.generators.qa.collection import Collection, Collector, Question, clean, left_out
from sparse_tasks.generators.qa.formats import Field, is_parquet, read_json, read_parquet
from sparse_tasks.generators.qa.packing import OpenTask
from sparse_tasks.generators.task import TASKS

_JUDGEMENTS = ("yes", "no")


def read_hotpotqa(corpus: Corpus) -> Collection:
    """Reader of HotpotQA with distractors: the published JSON, and the Hub's Parquet."""
    collector = Collector(corpus)
    for path in corpus.paths:
        for record, paragraphs, titles in _records(path):
            _add(collector, record, paragraphs, titles)
    return collector.done()


def _records(path: Path) -> Iterator[tuple[Field, list[tuple[str, str]], list[str]]]:
    """Questions with their paragraphs, title and text, and the titles of the two that hold the answer."""
    if is_parquet(path):
        for row in read_parquet(path, ("question", "answer", "context", "supporting_facts")):
            context = row.get("context")
            titles, texts = context.get("title").items(), context.get("sentences").items()
            if len(titles) != len(texts):
                raise context.error(f"has {len(titles)} titles and {len(texts)} paragraphs")
            paragraphs = [(title.text(), _joined(text)) for title, text in zip(titles, texts, strict=True)]
            yield row, paragraphs, [title.text() for title in row.get("supporting_facts").get("title").items()]
        return
    for record in read_json(path).items():
        paragraphs = [
            (title.text(), _joined(text)) for title, text in (entry.pair() for entry in record.get("context").items())
        ]
        yield record, paragraphs, [fact.pair()[0].text() for fact in record.get("supporting_facts").items()]


def _joined(sentences: Field) -> str:
    return "".join(sentence.text() for sentence in sentences.items())


def _add(collector: Collector, record: Field, paragraphs: Sequence[tuple[str, str]], titles: Sequence[str]) -> None:
    question, answer = record.get("question").text(), record.get("answer").text()
    texts = dict(paragraphs)
    indices = {title: collector.document(text, title) for title, text in paragraphs}
    gold = list(dict.fromkeys(titles))
    if len(gold) != 2 or not set(gold) <= set(texts):
        collector.leave_out("whose two paragraphs are missing")
        return
    whole = [f"{clean(title)}\n{clean(texts[title])}" for title in gold]
    collector.question(
        question,
        [indices[title] for title in gold],
        [answer],
        near=tuple(dict.fromkeys(index for index in indices.values() if index is not None)),
        within=lambda text: text in _JUDGEMENTS or any(text in paragraph for paragraph in whole),
    )


@dataclass(frozen=True)
class HotpotTask(OpenTask):
    """Base of the tasks with HotpotQA's questions, whose paragraphs are the first to be taken."""

    dispersion = "high"
    judgements = _JUDGEMENTS
    texts: ClassVar[Mapping[str, str]] = {"corpus": "qa_hotpotqa"}
    reader = staticmethod(read_hotpotqa)
    named = False
    near = True

    def form(self, question: Question) -> str:
        return "a few words taken from the documents, or yes or no, and nothing else."


@dataclass(frozen=True)
class QaHotpotqa(HotpotTask):
    """Asks an open question of HotpotQA (Yang et al. 2018) that two numbered paragraphs answer together.

    The question does not say which; they stand apart from each other.
    """

    name = "qa_hotpotqa"
    summary = "an open question that needs two of many numbered documents (HotpotQA)"


CORPORA.register(
    "qa_hotpotqa",
    Kind(
        name="qa_hotpotqa",
        summary="HotpotQA: questions on two paragraphs of Wikipedia, with distractors",
        supply="take --corpus qa_hotpotqa=hub, or hotpot_dev_distractor_v1.json from https://hotpotqa.github.io with "
        "--corpus qa_hotpotqa=FILE",
        licence="CC BY-SA 4.0",
        hub="hotpotqa/hotpot_qa@1908d6afbbead072334abe2965f91bd2709910ab",
        files=("distractor/validation-00000-of-00001.parquet",),
        hashes=("c20b638ca82b21d04fe12e14ff417ad05153d4d215a65de54497fca4e972f7c6",),
        notices=lambda corpus: left_out(corpus, read_hotpotqa),
    ),
)
TASKS.register(QaHotpotqa.name, QaHotpotqa)
