"""HotpotQA: an open question that needs two paragraphs of Wikipedia among many (high dispersion, low scope)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.generators.corpora import CORPORA, Corpus, Kind
from sparse_tasks.generators.qa.collection import Collection, Collector, Question, Unusable, clean, comparable, left_out
from sparse_tasks.generators.qa.formats import Field, read_records, unknown
from sparse_tasks.generators.qa.packing import OpenTask
from sparse_tasks.generators.qa.sentences import join
from sparse_tasks.generators.task import TASKS

_JUDGEMENTS = ("yes", "no")


_FORMS = (
    "HotpotQA is read from JSON or JSON Lines, also packed with gzip, of questions (question, answer, context, "
    "supporting_facts), or from Parquet with these four columns"
)
_COLUMNS = ("question", "answer", "context", "supporting_facts")


def read_hotpotqa(corpus: Corpus) -> Collection:
    """Reader of HotpotQA with distractors: the published JSON, and the Hub's rows, in every form of ``_FORMS``."""
    collector = Collector(corpus)
    for path in corpus.paths:
        for record in read_records(path, _FORMS, _COLUMNS):
            if record.find("context") is None and record.find("question") is None:
                raise unknown(record)
            _add(collector, record)
    return collector.done()


def _pairs(field: Field, first: str, second: str) -> list[tuple[Field, Field]]:
    """Pairs from the published JSON, in a list, or from the Hub's rows, in two lists."""
    if isinstance(field.value, list):
        return [entry.pair() for entry in field.items()]
    one, other = field.get(first).items(), field.get(second).items()
    if len(one) != len(other):
        raise field.error(f"has {len(one)} members of {first} and {len(other)} of {second}")
    return list(zip(one, other, strict=True))


def _add(collector: Collector, record: Field) -> None:
    question, answer = record.get("question").text(), record.get("answer").text()
    paragraphs = [
        (title.text(), join([sentence.text() for sentence in sentences.items()]))
        for title, sentences in _pairs(record.get("context"), "title", "sentences")
    ]
    documents = [collector.document(text, title) for title, text in paragraphs]
    # A title may have several paragraphs, and be spaced or composed differently where it is referred to.
    by_title: dict[str, dict[int | Unusable, str]] = {}
    for document, (title, text) in zip(documents, paragraphs, strict=True):
        by_title.setdefault(comparable(title), {})[document] = comparable(clean(f"{title}\n{text}"))
    facts = _pairs(record.get("supporting_facts"), "title", "sent_id")
    gold = list(dict.fromkeys(comparable(title.text()) for title, _ in facts))
    if missing := [title for title in gold if title not in by_title]:
        collector.leave_out(f"of which {len(missing)} paragraph{'s are' if len(missing) > 1 else ' is'} missing")
    elif len(gold) != 2:
        collector.leave_out(f"that rest on {len(gold)} paragraph{'s' * (len(gold) != 1)}, not 2")
    elif any(len(by_title[title]) > 1 for title in gold):
        collector.leave_out("of which one title stands over several paragraphs")
    else:
        whole = [text for title in gold for text in by_title[title].values()]
        collector.question(
            question,
            [document for title in gold for document in by_title[title]],
            [answer],
            near=tuple(dict.fromkeys(document for document in documents if isinstance(document, int))),
            within=lambda text: text in _JUDGEMENTS or any(comparable(text) in paragraph for paragraph in whole),
        )


@dataclass(frozen=True)
class HotpotTask(OpenTask):
    """Base of the tasks with HotpotQA's questions, whose own paragraphs are taken first."""

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

    The question does not say which; they are not adjacent.
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
