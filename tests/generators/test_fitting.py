"""Exact length, with any tokenizer, from the smallest prompt on; evidence stays where the words are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers

from sparse_tasks.core.errors import DataError, TooShortError
from sparse_tasks.core.length import TOLERANCE
from sparse_tasks.core.tokenizers import PromptTokenizer, load_tokenizer
from sparse_tasks.core.tokenizers.template import ChatTemplate
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.fitting import Fitted, Layout, Seeds, fit, smallest_prompt
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import Draft, Mark, Offer, Passage, Task
from tests.example_tokenizers import MAKERS, byte_level

WORDS = (
    "otter",
    "brass",
    "lantern",
    "the",
    "of",
    "46",
    "Zoë’s",
    "“Yes,”",
    "漢字",
    "long-compound-word",
    "unquestionably",
)
SORTS = ["qwen2.5", *MAKERS, "starcoder"]
BOTH, AFTER = Layout("both", ""), Layout("after", "\n\n<explanation>")


@dataclass(frozen=True)
class Toy(Task):
    """A list of lines, one of which holds a secret. It draws from its stream directly, as other people's tasks may."""

    name: ClassVar[str] = "toy_lines"
    summary: ClassVar[str] = "a secret among lines"
    dispersion: ClassVar[str] = "low"
    scope: ClassVar[str] = "low"
    metric: ClassVar[str] = "exact_match"
    steerable: ClassVar[bool] = True

    def smallest(self) -> int:
        return 2

    def units(self, size: int) -> int:
        return size

    def specimens(self, stream: Stream, size: int) -> list[str]:
        return [line(stream) for _ in range(80)]

    def compose(self, stream: Stream, size: int, depth: Depth) -> Draft:
        body = [Passage(line(stream)) for _ in range(size)]
        secret = stream.letters("abcdefghij", 8)
        place = depth.slot(stream, size)
        body[place].text = f"Then: the secret is {secret}, they say.\n"
        end = body[min(place + 2, size - 1)]
        ask = "Which is the secret?"
        return Draft(
            intro="Lines follow.\n\n",
            body=body,
            preview=f"You will be asked this: {ask}\n\n",
            question=f"The lines end here.\n\n{ask}",
            answer=secret,
            answers=[secret],
            offers=self.offers(stream.fork("filler"), body),
            marks=lambda: [
                Mark(body[place], body[place].text.index(secret), body[place], body[place].text.index(","), secret),
                Mark(body[place], 0, end, len(end.text) - 1, "several lines"),
            ],
            drawn={"size": size},
        )

    def offers(self, stream: Stream, body: list[Passage]) -> Sequence[Callable[[], Offer | None]]:
        """Ways to grow."""
        return [partial(behind, stream, body, 12), partial(longer, stream, body), partial(behind, stream, body, 0)]

    def oracle(self, prompt: str) -> str:
        found = re.search(r"the secret is (\w+),", prompt)
        assert found
        return found[1]


def line(stream: Stream, words: int | None = None) -> str:
    n = stream.between(3, 20) if words is None else words
    return (
        " ".join([stream.choice(("So", "12.", "“Well,”")), *(stream.choice(WORDS) for _ in range(n))])
        + ".\n"
        + "\n" * stream.below(2)
    )


def behind(stream: Stream, body: list[Passage], words: int) -> Offer:
    """Filler after any passage."""
    text, passage = line(stream, words), stream.choice(body)
    return Offer([text], [], lambda: passage.followers.append(text))


def longer(stream: Stream, body: list[Passage]) -> Offer | None:
    """A passage that is said in more words."""
    passage = stream.choice(body)
    if "secret" in passage.text:
        return None
    text = "So it seems: " + passage.text

    def accept() -> None:
        passage.text = text

    return Offer([text], [passage.text], accept)


@dataclass(frozen=True)
class Stiff(Toy):
    """The toy with other ways to grow, or none."""

    ways: tuple[Callable[[Stream, list[Passage]], Offer | None], ...] = ()

    def offers(self, stream: Stream, body: list[Passage]) -> Sequence[Callable[[], Offer | None]]:
        return [partial(way, stream, body) for way in self.ways]


@dataclass(frozen=True)
class Counting(Toy):
    """The toy, with a record of the sizes that were composed."""

    def compose(self, stream: Stream, size: int, depth: Depth) -> Draft:
        COMPOSED.append(size)
        return super().compose(stream, size, depth)


COMPOSED: list[int] = []


def starcoder() -> PromptTokenizer:
    """Here costs do not add up: what an empty line costs depends on whether a number follows."""
    state = json.loads(byte_level().to_str())
    state["model"]["vocab"]["ĊĊ"] = len(state["model"]["vocab"])
    state["model"]["merges"].append(["Ċ", "Ċ"])
    backend = Tokenizer.from_str(json.dumps(state))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer = PromptTokenizer("starcoder", backend, "sha256", ChatTemplate("> {{ messages[0].content }} <"))
    assert tokenizer.count("So.\n\n12.\n\n12.\na") != tokenizer.count("a") + tokenizer.total(
        ["So.\n\n", "12.\n\n", "12.\n"]
    )
    return tokenizer


def seeds(*key: object) -> Seeds:
    return Seeds(Stream("own", *key), Stream("smallest", *key))


@pytest.fixture(scope="module")
def tokenizers(qwen: PromptTokenizer, tokenizer_folders: dict[str, Path]) -> dict[tuple[str, str], PromptTokenizer]:
    loaded = {"qwen2.5": qwen, "starcoder": starcoder()} | {
        sort: load_tokenizer(str(folder)) for sort, folder in tokenizer_folders.items()
    }
    return {
        (sort, template): tokenizer if template == "auto" else tokenizer.with_template(None)
        for sort, tokenizer in loaded.items()
        for template in ("auto", "none")
    }


def check(fitted: Fitted, tokenizer: PromptTokenizer, layout: Layout, target: int) -> None:
    assert fitted.input_tokens == len(tokenizer.ids(fitted.prompt))
    assert target - TOLERANCE <= fitted.input_tokens <= target
    draft = fitted.draft
    assert fitted.context == draft.intro + "".join(draft.texts())
    assert fitted.prompt == layout.before(draft) + fitted.context + layout.after(draft)
    assert Toy().oracle(fitted.prompt) == draft.answer
    secret, lines = sorted(fitted.evidence, key=lambda span: span.end - span.start)
    assert fitted.prompt[secret.start : secret.end] == secret.label == draft.answer
    words = fitted.prompt[lines.start : lines.end]
    assert words.startswith(f"Then: the secret is {draft.answer}")
    assert fitted.prompt[lines.end] == "\n"
    assert words in fitted.context
    for span in fitted.evidence:
        start = span.start - len(layout.before(draft))
        assert span.depth == pytest.approx(start / len(fitted.context), abs=1e-6)
        assert 0 <= span.depth <= 1


# --- exact --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("template", ["auto", "none"])
@pytest.mark.parametrize("sort", SORTS)
@given(target=st.integers(350, 4_000), seed=st.integers(0, 2**32), layout=st.sampled_from([BOTH, AFTER]))
@settings(max_examples=15, deadline=None)
def test_any_target_is_met_and_the_count_is_a_whole_encodes(
    sort: str, template: str, target: int, seed: int, layout: Layout, tokenizers: dict[tuple[str, str], PromptTokenizer]
) -> None:
    tokenizer = tokenizers[sort, template]
    check(fit(Toy(), tokenizer, layout, seeds(seed), Depth(), target), tokenizer, layout, target)


@pytest.mark.slow
@pytest.mark.parametrize("sort", SORTS)
def test_every_length_from_the_smallest_prompt_on_is_met(
    sort: str, tokenizers: dict[tuple[str, str], PromptTokenizer]
) -> None:
    tokenizer = tokenizers[sort, "auto"]
    for key in range(2):
        smallest = smallest_prompt(Toy(), tokenizer, BOTH, seeds(key), Depth())
        for target in (*range(smallest, smallest + 34, 3), *range(smallest + 34, smallest + 400, 60)):
            check(fit(Toy(), tokenizer, BOTH, seeds(key), Depth(), target), tokenizer, BOTH, target)


@pytest.mark.slow
@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("layout", [BOTH, AFTER])
def test_below_the_smallest_prompt_it_is_too_short(
    layout: Layout, sort: str, tokenizers: dict[tuple[str, str], PromptTokenizer]
) -> None:
    tokenizer = tokenizers[sort, "none"]
    for key in range(6):
        smallest = smallest_prompt(Toy(), tokenizer, layout, seeds(key), Depth())
        at_the_bound = fit(Toy(), tokenizer, layout, seeds(key), Depth(), smallest)
        assert at_the_bound.input_tokens == smallest
        assert at_the_bound.draft.drawn == {"size": 2}
        for target in (smallest - 1, smallest // 2, 1, 0, -500):
            with pytest.raises(TooShortError, match="is too short for toy_lines: a sample needs") as caught:
                fit(Toy(), tokenizer, layout, seeds(key), Depth(), target)
            assert (caught.value.field, caught.value.value) == ("length", target)
            assert str(smallest) in caught.value.remedy


@pytest.mark.parametrize("sort", SORTS)
def test_the_smallest_prompt_is_the_same_at_every_length(
    sort: str, tokenizers: dict[tuple[str, str], PromptTokenizer]
) -> None:
    tokenizer, smallest = tokenizers[sort, "auto"], Stream("smallest")
    sizes = {
        smallest_prompt(Toy(), tokenizer, BOTH, Seeds(Stream("own", length), Stream("smallest")), Depth())
        for length in (100, 1_000, 10_000)
    }
    assert sizes == {smallest_prompt(Toy(), tokenizer, BOTH, Seeds(Stream("own"), smallest), Depth())}


# --- determinism --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sort", ["qwen2.5", "bert"])
def test_earlier_samples_make_no_difference(sort: str, tokenizers: dict[tuple[str, str], PromptTokenizer]) -> None:
    tokenizer = tokenizers[sort, "auto"]
    alone = fit(Toy(), tokenizer, BOTH, seeds("a"), Depth(), 1_500)
    for key, target in (("b", 1_500), ("a", 1_499), ("a", 3_000)):
        fit(Toy(), tokenizer, BOTH, seeds(key), Depth(), target)
    again = fit(Toy(), tokenizer, BOTH, seeds("a"), Depth(), 1_500)
    assert (again.prompt, again.evidence, again.input_tokens) == (alone.prompt, alone.evidence, alone.input_tokens)


def test_another_key_gives_another_prompt(qwen: PromptTokenizer) -> None:
    prompts = {fit(Toy(), qwen, BOTH, seeds(key), Depth(), 1_500).prompt for key in range(20)}
    assert len(prompts) == 20


# --- economy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sort", SORTS)
def test_the_first_draft_usually_fits(sort: str, tokenizers: dict[tuple[str, str], PromptTokenizer]) -> None:
    tokenizer, rounds = tokenizers[sort, "auto"], []
    fit(Counting(), tokenizer, BOTH, seeds("first"), Depth(), 8_000)  # makes the estimate, too
    for key in range(12):
        COMPOSED.clear()
        fit(Counting(), tokenizer, BOTH, seeds(key), Depth(), 8_000)
        rounds.append(len(COMPOSED))
    assert sum(rounds) / len(rounds) <= 1.5


@pytest.mark.parametrize("target", [2_000, 8_000, 32_000])
def test_a_prompt_consists_of_passages_with_little_filler(target: int, qwen: PromptTokenizer) -> None:
    shares = []
    for key in range(10):
        fitted = fit(Toy(), qwen, BOTH, seeds(key), Depth(), target)
        filler = sum(len(text) for passage in fitted.draft.body for text in passage.followers)
        shares.append(filler / len(fitted.context))
    assert sum(shares) / len(shares) < 0.25


# --- no end in sight ----------------------------------------------------------------------------------------


def no_more(stream: Stream, body: list[Passage]) -> Offer | None:
    return None


def too_large(stream: Stream, body: list[Passage]) -> Offer:
    return Offer(["So " * 2_000 + "\n"], [], lambda: pytest.fail("an offer was taken that does not fit"))


def for_nothing(stream: Stream, body: list[Passage]) -> Offer:
    return Offer(["So.\n"], ["So.\n"], lambda: pytest.fail("an offer was taken that adds nothing"))


def shorter(stream: Stream, body: list[Passage]) -> Offer:
    return Offer(["So.\n"], ["So it goes on.\n"], lambda: pytest.fail("an offer was taken that takes away"))


@pytest.mark.parametrize("way", [None, no_more, too_large, for_nothing, shorter])
@pytest.mark.parametrize("sort", ["qwen2.5", "bert"])
def test_a_task_that_cannot_grow_ends_in_an_error_and_not_in_a_loop(
    sort: str,
    way: Callable[[Stream, list[Passage]], Offer | None] | None,
    tokenizers: dict[tuple[str, str], PromptTokenizer],
) -> None:
    task, tokenizer = Stiff(ways=(way,) if way else ()), tokenizers[sort, "auto"]
    smallest = smallest_prompt(task, tokenizer, BOTH, seeds("stiff"), Depth())
    # The smallest draft alone is too short by one, and any other too long.
    with pytest.raises(DataError, match=f"toy_lines found no sample of {smallest + 33} tokens"):
        fit(task, tokenizer, BOTH, Seeds(NoLuck(), seeds("stiff").smallest), Depth(), smallest + 33)


class NoLuck(Stream):
    """Drafts of any size but the smallest come out very long."""

    def fork(self, *parts: object) -> Stream:
        return self

    def between(self, low: int, high: int) -> int:
        return 500


def test_offers_are_made_until_little_room_is_left_and_the_small_ones_last(qwen: PromptTokenizer) -> None:
    taken: list[str] = []

    def way(name: str, words: int, stream: Stream, body: list[Passage]) -> Offer:
        offer = behind(stream, body, words)
        return Offer(offer.added, offer.removed, lambda: (taken.append(name), offer.accept())[0])

    # In one round, which is all that an additive tokenizer needs, large offers precede small ones.
    task = Stiff(ways=(partial(way, "large", 15), partial(way, "small", 0)))
    check(fit(task, qwen, BOTH, seeds(7), Depth(), 3_000), qwen, BOTH, 3_000)
    assert taken == sorted(taken)
    assert taken


# --- evidence and layout ------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [BOTH, AFTER])
def test_evidence_is_found_behind_filler(layout: Layout, qwen: PromptTokenizer) -> None:
    # Much filler: few lines and a long way to go.
    moved = 0
    for key in range(40):
        fitted = fit(Toy(), qwen, layout, seeds(key), Depth(1, 1), 450)
        check(fitted, qwen, layout, 450)
        moved += any(passage.followers for passage in fitted.draft.body[:-1])
    assert moved > 10


def test_evidence_comes_in_the_order_of_the_prompt(qwen: PromptTokenizer) -> None:
    for key in range(10):
        spans = [(span.start, span.end) for span in fit(Toy(), qwen, BOTH, seeds(key), Depth(), 800).evidence]
        assert spans == sorted(spans)


@pytest.mark.parametrize("depth", [Depth(0, 0), Depth(0.5, 0.5), Depth(0.9, 1)])
def test_evidence_is_near_the_requested_depth(depth: Depth, qwen: PromptTokenizer) -> None:
    for key in range(10):
        fitted = fit(Toy(), qwen, BOTH, seeds(key), depth, 8_000)
        for span in fitted.evidence:
            assert depth.low - 0.05 <= span.depth <= depth.high + 0.05


def test_both_states_the_question_before_and_after_and_after_only_after(qwen: PromptTokenizer) -> None:
    draft = Toy().compose(Stream(1), 3, Depth())
    assert BOTH.before(draft) == draft.preview
    assert AFTER.before(draft) == ""
    assert BOTH.after(draft) == draft.question
    assert AFTER.after(draft) == draft.question + "\n\n<explanation>"
    assert BOTH.frame(draft) == draft.preview + draft.intro + draft.question
    assert AFTER.frame(draft) == draft.intro + draft.question + "\n\n<explanation>"
    both = fit(Toy(), qwen, BOTH, seeds(1), Depth(), 900)
    after = fit(Toy(), qwen, AFTER, seeds(1), Depth(), 900)
    assert both.prompt.count("Which is the secret?") == 2
    assert after.prompt.count("Which is the secret?") == 1
    assert after.prompt == after.context + after.draft.question + "\n\n<explanation>"
