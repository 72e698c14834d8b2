"""Questions about one document or several among many: packing to a length, asking, and checking."""

from __future__ import annotations

import copy
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, islice
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.core.errors import DataError, UsageError, quoted
from sparse_tasks.core.length import TOLERANCE
from sparse_tasks.core.tokenizers import NEVER
from sparse_tasks.generators import prompts
from sparse_tasks.generators.corpora import UNENCODABLE, Corpus, mounted, read
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.qa.collection import END, Collection, Question, heading, holds, letters
from sparse_tasks.generators.qa.costs import document_costs
from sparse_tasks.generators.qa.sentences import cut, divisions, fragments
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import Completion, Draft, Mark, Passage, Task, parameter

if TYPE_CHECKING:
    from sparse_tasks.core.tokenizers import PromptTokenizer

MOST_GOLD = 8_192  # size limit of a gold document, in tokens
_MISSES = 8  # documents that may not fit before one of them is cut
_CANDIDATES = 24  # documents tried to find one that can be cut to the right length
_HEADINGS = 4_096  # headings whose tokens are counted one by one
_NUMBERS = 2  # times that the number of a document occurs in the frame of the prompt
_INTRO = "Below are the documents, each under its number.\n\n"


@dataclass(frozen=True)
class _Turn:
    """Question of one sample, with the tokens of each document."""

    question: Question
    costs: Sequence[int]
    tokenizer: PromptTokenizer

    def headings(self, n: int) -> int:
        first = min(n, _HEADINGS)
        tokens = _heading_totals(self.tokenizer)[first]
        while first < n:
            # Beyond that, numbers with the same number of digits cost almost the same.
            last = min(n, 10 ** len(str(first + 1)) - 1)
            tokens += (last - first) * _heading_cost(self.tokenizer, len(str(last)))
            first = last
        return tokens

    def frame(self, n: int) -> int:
        """Upper bound of the tokens that ``n`` documents need besides their texts."""
        return self.headings(n) + _slack(n)


@dataclass(frozen=True)
class PackedTask(Task):
    """Base of the tasks that ask about one document or several among others of a corpus, shuffled and numbered.

    Its sizes are tokens. The questions of a data set are drawn without repetition, and are the same at every length.
    """

    corpus: str = parameter("", "SHA-256 of the corpus (set by --corpus)")
    repeats: bool = parameter(False, "whether documents may be repeated within a sample (set by --allow-repeats)")
    _turn: _Turn | None = field(default=None, init=False, repr=False, compare=False)

    version = 3
    dispersion = "low"
    scope = "low"
    steerable = True
    sized_in_tokens = True
    named: ClassVar[bool] = True  # whether the question says which document it is about
    near: ClassVar[bool] = False  # whether the documents that came with a question are taken first

    @abstractmethod
    def form(self, question: Question) -> str:
        """Instruction for writing the answer."""

    @abstractmethod
    def check(self, question: Question, documents: Sequence[str]) -> str | None:
        """Problem of a question and its answers according to its documents; None if there is none."""

    @staticmethod
    @abstractmethod
    def reader(corpus: Corpus) -> Collection:
        """Read the corpus."""

    def collection(self) -> Collection:
        return read(self.corpus, type(self).reader)

    def at(self, tokenizer: PromptTokenizer, seed: int, index: int) -> Task:
        order = _order(self, tokenizer, seed)
        if index >= len(order) and not self.repeats:
            remedy = f"is more than the {len(order):,} questions of {self.name}; ask for fewer, or --allow-repeats"
            raise UsageError("samples", index + 1, remedy)
        collection = self.collection()
        question = collection.questions[order[index % len(order)]]
        costs = document_costs(collection.sha256, collection.documents, tokenizer)
        bound = copy.copy(self)
        object.__setattr__(bound, "_turn", _Turn(question, costs, tokenizer))
        return bound

    def notices(self, tokenizer: PromptTokenizer) -> list[str]:
        collection, order = self.collection(), len(_order(self, tokenizer, 0))
        costs = document_costs(collection.sha256, collection.documents, tokenizer)
        mute = sum(_tokens(question, costs, tokenizer) >= NEVER for question in collection.questions)
        long, documents = len(collection.questions) - order - mute, sum(cost == NEVER for cost in costs)
        notices = []
        if long:
            what = f"question{'s' * (long != 1)} about a document of more than {MOST_GOLD:,} tokens"
            notices.append(f"{self.name}: left out {long:,} {what}")
        if documents or mute:
            what = f"{documents:,} document{'s' * (documents != 1)} and {mute:,} question{'s' * (mute != 1)}"
            notices.append(f"{self.name}: left out {what}, {UNENCODABLE}")
        return notices

    def _bound(self) -> _Turn:
        if self._turn is None:
            raise RuntimeError(f"{self.name} makes samples only after at()")
        return self._turn

    def smallest(self) -> int:
        turn = self._bound()
        return sum(turn.costs[index] for index in turn.question.gold) + turn.headings(len(turn.question.gold))

    def largest(self) -> int | None:
        turn = self._bound()
        if self.repeats and len(turn.costs) > len(turn.question.gold):
            return None
        costs = [cost for cost in turn.costs if cost != NEVER]
        return sum(costs) + turn.frame(len(costs))

    def specimens(self, stream: Stream, size: int) -> list[str]:
        return [f"{self.collection().documents[index]}\n\n" for index in self._bound().question.gold]

    def compose(self, stream: Stream, size: int, depth: Depth) -> Draft:
        question = self._bound().question
        others = self._others(stream.fork("documents"), size) if size > self.smallest() else []
        stream.fork("order").shuffle(others)
        n = len(others) + len(question.gold)
        places = _places(depth, stream.fork("place"), n, len(question.gold))
        documents = iter(others)
        gold = dict(zip(places, question.gold, strict=True))
        texts = [self.collection().documents[gold[i]] if i in gold else next(documents) for i in range(n)]
        body = [Passage(f"{heading(i + 1)}{text}\n\n") for i, text in enumerate(texts)]
        ask, form = self._ask(question, places[0] + 1), self.form(question)
        return Draft(
            intro=_INTRO,
            body=body,
            preview=prompts.preview("a collection of documents", ask, form),
            question=prompts.question(END, ask, form),
            answer=question.answer,
            answers=list(question.answers),
            offers=[],
            marks=lambda: [
                Mark(body[i], 0, body[i], len(body[i].text.rstrip()), heading(i + 1).strip()) for i in sorted(places)
            ],
            completion=self.complete({"question": question.text}) if self.placeholders else None,
            drawn={"documents": n},
            fields={"question": question.text, "format": prompts.answer_format(form)},
        )

    def _ask(self, question: Question, number: int) -> str:
        ask = f"This question is about document {number}.\n\n{question.text}" if self.named else question.text
        options = [f"{letter}. {text}" for letter, text in zip(letters(26), question.choices, strict=False)]
        return "\n".join([f"{ask}\n", *options]) if options else ask

    def _others(self, stream: Stream, size: int) -> list[str]:
        """Documents that fill ``size`` together with the gold ones: complete ones, and one that is cut."""
        turn, documents = self._bound(), self.collection().documents
        queue = self._queue(stream)
        whole: list[int] = []
        passed: list[int] = []
        used, n = sum(turn.costs[index] for index in turn.question.gold), len(turn.question.gold)
        for index in queue:
            if used + turn.costs[index] + turn.frame(n + 1) <= size:
                whole.append(index)
                used, n = used + turn.costs[index], n + 1
            else:
                passed.append(index)
                if len(passed) > _MISSES:
                    break
        part: str | None = None
        for remaining in reversed(range(_MISSES)):
            # If no document was skipped, the corpus is used up.
            if not passed or size - used - turn.frame(n) < TOLERANCE - _slack(n):
                break
            candidates = [*passed, *islice(queue, max(0, _CANDIDATES - len(passed)))]
            room, enough = size - used - turn.frame(n + 1), TOLERANCE - 1 - _slack(n + 1)
            part = self._part(candidates, room, enough, divisions)
            if part is None and not (whole and remaining):
                part = self._part(candidates, room, enough, fragments)
            if part is not None or not whole:
                break
            # No document begins with such a short sentence: one document less leaves more room.
            passed = [whole.pop(), *passed]
            used, n = used - turn.costs[passed[0]], n - 1
        return [*(documents[index] for index in whole), *([] if part is None else [part])]

    def _queue(self, stream: Stream) -> Iterator[int]:
        """Indices of the other documents in random order, endlessly if they may repeat."""
        question, n = self._bound().question, len(self.collection().documents)
        never = {index for index, cost in enumerate(self._bound().costs) if cost == NEVER}
        out = {*question.gold, *never}
        first = [index for index in question.near if index not in out] if self.near else []
        stream.shuffle(first)
        yield from first
        left_out = {*out, *first}
        while True:
            yield from (index for index in _shuffled(stream, n) if index not in left_out)
            left_out = out
            if not self.repeats or n <= len(left_out):
                return

    def _part(
        self, candidates: Sequence[int], room: int, enough: int, divide: Callable[[str], list[int]]
    ) -> str | None:
        """Beginning of a document that leaves as little room as possible; the first that leaves ``enough``, if any."""
        documents, cost = self.collection().documents, self._bound().tokenizer.cost
        best, least = None, room + 1
        for index in candidates:
            if (part := cut(documents[index], room, cost, divide)) is not None and room - part[1] < least:
                best, least = part[0], room - part[1]
                if least <= enough:
                    break
        return best

    def oracle(self, prompt: str) -> str:
        if mounted(self.corpus) is None:
            raise DataError(f"{self.name} cannot answer without its corpus; name it with --corpus")
        first, *others = self._known(prompt)
        if any(other.answers != first.answers for other in others):
            raise DataError(f"the corpus has several answers to {quoted(first.text)} about documents of the prompt")
        return first.answer

    def verify(self, prompt: str, answer: str, answers: Sequence[str]) -> str | None:
        parsed = read_prompt(prompt, self.named)
        if mounted(self.corpus) is not None:
            known = self._known(prompt)
            if not any((answer, tuple(answers)) == (question.answer, question.answers) for question in known):
                return f"the corpus says {quoted(known[0].answer)}, the stored answer is {quoted(answer)}"
        question = Question(parsed.text, (), tuple(answers), parsed.choices)
        if answer != question.answer:
            return f"the stored answer {quoted(answer)} does not follow from the stored answers"
        return self.check(question, parsed.about)

    def _known(self, prompt: str) -> list[Question]:
        """Questions of the corpus that a prompt may ask: several if the same text is asked about several documents."""
        parsed, documents = read_prompt(prompt, self.named), self.collection().documents
        about = set(parsed.about)
        if known := [
            question
            for question in self.collection().by_text.get(parsed.text, [])
            if question.choices == parsed.choices and all(documents[index] in about for index in question.gold)
        ]:
            return known
        what = "that document" if self.named else "documents of the prompt"
        raise DataError(f"the corpus has no question {quoted(parsed.text)} about {what}")


def completion(question: str, form: str) -> Completion:
    """A question whose answer continues the prompt; ``form`` is a sentence on its form."""
    return prompts.completion("a collection of documents", _INTRO, END, f"{question}\n\n{form}", "Answer:")


@dataclass(frozen=True)
class OpenTask(PackedTask):
    """Base of the tasks whose answer is a few words of a document, or one of ``judgements``."""

    metric = "token_f1"
    references = True
    judgements: ClassVar[tuple[str, ...]] = ()

    def check(self, question: Question, documents: Sequence[str]) -> str | None:
        for answer in question.answers:
            if answer not in self.judgements and not any(holds(document, answer) for document in documents):
                return f"the answer {answer!r} is not in the document{'' if self.named else 's'}"
        return None


@dataclass(frozen=True)
class ChoiceTask(PackedTask):
    """Base of the multiple-choice tasks; the answer is letters."""

    metric = "set_match"

    def check(self, question: Question, documents: Sequence[str]) -> str | None:
        known = letters(len(question.choices))
        if wrong := [answer for answer in question.answers if len(answer) != 1 or answer not in known]:
            return f"{quoted(wrong[0])} is not the letter of a choice"
        return None


@dataclass(frozen=True)
class _Prompt:
    text: str  # the question
    choices: tuple[str, ...]
    documents: list[str]  # all, in order
    about: list[str]  # the one that the question names; all if it names none


def read_prompt(prompt: str, named: bool) -> _Prompt:
    """Question and documents of a prompt, else DataError; ``named`` says whether the question names its document."""
    body, end, rest = prompt.rpartition(f"\n{END}\n")
    if not end:
        raise DataError("the prompt does not say where the documents end")
    lines = rest.strip().split("\n\n")[0 : 1 + named + 1]
    parts = re.split(r"^Document (\d{1,9})\n", body, flags=re.M)
    numbers, documents = [int(number) for number in parts[1::2]], [text.strip() for text in parts[2::2]]
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        raise DataError("the documents are not numbered from 1")
    about = documents
    if named:
        match = re.fullmatch(r"This question is about document (\d{1,9})\.", lines[0])
        if match is None:
            raise DataError("the question names no document")
        number, lines = int(match[1]), lines[1:]
        if not 1 <= number <= len(documents):
            raise DataError(f"the question is about document {number}, and there are {len(documents)}")
        about = [documents[number - 1]]
    options = re.findall(r"^[A-Z]\. (.+)$", lines[1], re.M) if len(lines) > 1 else []
    return _Prompt(lines[0], tuple(options), documents, about)


def _slack(n: int) -> int:
    """Tokens that numbers up to ``n`` may need beyond a single digit in the frame of the prompt."""
    return _NUMBERS * (len(str(n)) - 1)


@lru_cache(maxsize=16)
def _heading_totals(tokenizer: PromptTokenizer) -> list[int]:
    """Tokens of the first 0, 1, 2, ... headings."""
    return list(accumulate(tokenizer.costs([heading(i + 1) for i in range(_HEADINGS)]), initial=0))


@lru_cache(maxsize=64)
def _heading_cost(tokenizer: PromptTokenizer, digits: int) -> int:
    return tokenizer.cost(heading(10**digits - 1))


@lru_cache(maxsize=16)
def _order(task: PackedTask, tokenizer: PromptTokenizer, seed: int) -> list[int]:
    """Indices of the questions in the order in which samples ask them."""
    collection = task.collection()
    costs = document_costs(collection.sha256, collection.documents, tokenizer)
    order = list(range(len(collection.questions)))
    Stream("questions", task.name, task.version, task.corpus, seed).shuffle(order)
    tokens = [_tokens(question, costs, tokenizer) for question in collection.questions]
    order = [i for i in order if tokens[i] <= MOST_GOLD]
    if not order:
        others = f"; others are left out {UNENCODABLE}" if max(tokens, default=0) >= NEVER else ""
        what = f"has no question about a document of {MOST_GOLD:,} tokens or fewer{others}"
        raise UsageError("task", task.name, what)
    return order


def _tokens(question: Question, costs: Sequence[int], tokenizer: PromptTokenizer) -> int:
    """Tokens of the longest document of a question; ``NEVER`` if one of them cannot be encoded."""
    words = "\n".join([question.text, *question.choices])
    if tokenizer.spells_control(words) is not None and tokenizer.cost(f"{words}\n") >= NEVER:
        return NEVER
    return max(costs[index] for index in question.gold)


def _places(depth: Depth, stream: Stream, n: int, k: int) -> list[int]:
    """Places of ``k`` (1 or 2) documents among ``n``: each anywhere with the same chance, two not side by side."""
    if k == 1:
        return [depth.slot(stream, n)]
    if not depth.uniform or n < 4:
        places = depth.slots(stream, n, k)
        stream.shuffle(places)
        return places
    # On a circle all places are equal, so excluding neighbours favours none.
    first = stream.below(n)
    return [first, (first + stream.between(2, n - 2)) % n]


def _shuffled(stream: Stream, n: int) -> Iterator[int]:
    """Numbers below ``n`` in random order, drawn lazily (Fisher and Yates)."""
    moved: dict[int, int] = {}
    for i in range(n):
        j = stream.between(i, n - 1)
        yield moved.get(j, j)
        moved[j] = moved.get(i, i)
