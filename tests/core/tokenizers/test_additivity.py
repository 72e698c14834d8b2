"""Where a tokenizer is said to add up over paragraphs it does; where it does not, it is not said to."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from sparse_tasks.core.tokenizers import PromptTokenizer, load_tokenizer
from tests.example_tokenizers import MAKERS, bert, byte_level, llama, unigram

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

Step = pre_tokenizers.PreTokenizer


def prompt_tokenizer(backend: Tokenizer) -> PromptTokenizer:
    return PromptTokenizer("made", backend, "sha256", None)


def whole(tokenizer: PromptTokenizer, paragraphs: Sequence[str], head: str = "Well.\n\n", tail: str = "The end") -> int:
    """What the paragraphs add to a text, by encoding all of it with and without them."""
    return tokenizer.count(head + "".join(paragraphs) + tail) - tokenizer.count(head + tail)


def split(pattern: str) -> Step:
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def bytes_without_pattern() -> Step:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def bytes_with_pattern() -> Step:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def over_bytes(*steps: Step) -> Tokenizer:
    """A byte-level vocabulary that knows the empty line, as all real ones do."""
    state = json.loads(byte_level().to_str())
    state["model"]["vocab"] |= {"ĊĊ": len(state["model"]["vocab"])}
    state["model"]["merges"].append(["Ċ", "Ċ"])
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    return tokenizer


def over_characters(
    characters: Iterable[str], merges: Sequence[tuple[str, str]], unknown: str | None = "?", **options: Any
) -> Tokenizer:
    entries = [*([unknown] if unknown else []), *characters, *(left + right for left, right in merges)]
    vocabulary = {entry: number for number, entry in enumerate(dict.fromkeys(entries))}
    if unknown:
        options["unk_token"] = unknown
    return Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges), **options))


def with_steps(backend: Tokenizer, *steps: Step, normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    if steps:
        backend.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    if normalizer:
        backend.normalizer = normalizer
    return backend


def gemma() -> Tokenizer:
    state = json.loads(llama().to_str())
    state["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    return tokenizer


def pieces(*more: tuple[str, float]) -> Tokenizer:
    return Tokenizer(models.Unigram([("?", 0.0), *((c, -5.0) for c in "ab.1▁"), ("ab", -6.0), *more], unk_id=0))


# --- those that add up --------------------------------------------------------------------------------------

ADD_UP: dict[str, Callable[[], Tokenizer]] = {
    "GPT-2": lambda: over_bytes(bytes_with_pattern()),
    "GPT-2, without the empty line": byte_level,
    "Llama 2": llama,
    "Llama 3": lambda: over_bytes(split(LLAMA3), bytes_without_pattern()),
    "DeepSeek V3": lambda: over_bytes(
        split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK), bytes_without_pattern()
    ),
    "Gemma": gemma,
    "Unigram": lambda: pieces(("\n", -3.0), ("\n\n", -4.0)),
}


@cache
def made(name: str) -> PromptTokenizer:
    return load_tokenizer("qwen2.5", "none") if name == "qwen2.5" else prompt_tokenizer(ADD_UP[name]())


# A paragraph begins with something that is no white space (nor what SentencePiece writes for it) and ends in a newline.
_CHARACTERS = st.characters(exclude_categories=["Cs", "Cn", "Co"])
_FIRST = _CHARACTERS.filter(lambda character: not character.isspace() and character != "▁") | st.sampled_from(
    [*"Az1“\"'-(…$漢か한ع😀\u0301\u200b", "12", "'s", "’ll"]
)
_MIDDLE = st.lists(
    st.text(_CHARACTERS, max_size=4)
    | st.sampled_from(
        [" ", "  ", "\n", "\n\n", " \n", "\r\n", "\t", ". ", ".”", "Chapter 12", "1875", "漢字", "👩\u200d🚀", "é"]
    ),
    max_size=6,
).map("".join)
_LAST = st.sampled_from(
    ["\n", "\n\n", ".\n", ".”\n\n", "\n\n\n", "\n" * 5, " \n", "\n \n", "\r\n", "1\n", "é\n", "漢\n\n"]
)
_PARAGRAPHS = st.lists(st.tuples(_FIRST, _MIDDLE, _LAST).map("".join), min_size=1, max_size=5)


@pytest.mark.parametrize("name", ["qwen2.5", *ADD_UP])
@given(paragraphs=_PARAGRAPHS, head=st.sampled_from(["a\n", "Well.\n\n", "1\n", "”\n \n"]), tail=_FIRST)
@settings(max_examples=60, deadline=None)
def test_the_sum_over_paragraphs_is_what_a_whole_encode_says(
    name: str, paragraphs: list[str], head: str, tail: str
) -> None:
    tokenizer = made(name)
    expected = whole(tokenizer, paragraphs, head, tail)
    assert tokenizer.total(paragraphs) == expected
    assert sum(map(tokenizer.cost, paragraphs)) == expected


@pytest.mark.parametrize("name", ["qwen2.5", *ADD_UP])
def test_the_usual_tokenizers_add_up_chunk_by_chunk(name: str) -> None:
    tokenizer = made(name)
    # Otherwise generation would silently be slower.
    assert tokenizer.additive
    paragraphs = [f"{'“Yes”, ' * (i % 7)}she said {i} times.{chr(10) * (1 + i % 3)}" for i in range(2_000)]
    assert tokenizer.total(paragraphs) == whole(tokenizer, paragraphs)
    assert tokenizer.total(iter(paragraphs)) == tokenizer.total(["".join(paragraphs)])
    assert tokenizer.total([]) == 0


# --- those that do not --------------------------------------------------------------------------------------

NOT = {
    "a token over newline and letter": (
        lambda: over_characters("ab\n", [("\n", "\n"), ("\n", "b")]),
        ["a\n\n", "b\n"],
    ),
    "a byte-level token over newline and letter": (
        lambda: spanning_bytes("b"),
        ["a\n\n", "b\n"],
    ),
    "a character that is dropped": (
        lambda: over_characters("ab\n", [("\n", "\n")], unknown=None),
        ["a\n\n", "é\n"],
    ),
    "a normalizer that makes a blank of an accent": (
        lambda: with_steps(over_characters("ab \n", [("\n", "\n"), ("\n", " ")]), normalizer=normalizers.NFKC()),
        ["a\n\n", "´a\n"],
    ),
    "a look-behind": (
        lambda: with_steps(over_characters("ab\n", [("a", "b")]), split(r"(?<=\n\n)a")),
        ["a\n\n", "ab\n"],
    ),
    "pieces of a fixed length": (
        lambda: with_steps(over_characters("ab\n", [("a", "b")]), split(r"[\s\S]{1,3}")),
        ["a\n", "bab\n"],
    ),
    "punctuation split off before a look-ahead over white space (Falcon)": (
        lambda: over_bytes(pre_tokenizers.Punctuation("contiguous"), bytes_with_pattern()),
        ["Chapter 1\n\n", "“Yes.”\n"],
    ),
    "the end of a word written otherwise": (
        lambda: with_steps(
            over_characters("ab.\n", [("b", "\n")], end_of_word_suffix="</w>"), pre_tokenizers.Punctuation()
        ),
        ["b\n", ".b\n"],
    ),
}


def spanning_bytes(letter: str) -> Tokenizer:
    state = json.loads(over_bytes(bytes_without_pattern()).to_str())
    state["model"]["vocab"] |= {f"Ċ{letter}": len(state["model"]["vocab"])}
    state["model"]["merges"].append(["Ċ", letter])
    return Tokenizer.from_str(json.dumps(state))


@pytest.mark.parametrize("name", NOT)
def test_a_tokenizer_that_does_not_add_up_is_refused(name: str) -> None:
    make, witness = NOT[name]
    tokenizer = prompt_tokenizer(make())
    assert sum(map(tokenizer.cost, witness)) != whole(tokenizer, witness, "a\n", "a"), "the example is none"
    assert not tokenizer.additive


UNPROVEN: dict[str, Callable[[], Tokenizer]] = {
    "WordPiece": bert,
    "newlines replaced": unigram,
    "an unknown newline, fused": lambda: over_characters("ab", [], fuse_unk=True),
    "an unknown newline piece": pieces,
    "merges over fallback bytes": lambda: spanning_fallback(),
    "ends of words written otherwise": lambda: over_characters("ab\n", [], end_of_word_suffix="</w>"),
    "a split at newlines by text": lambda: with_steps(
        over_characters("ab\n", []), pre_tokenizers.Split("\n", behavior="isolated")
    ),
    "an unknown step inside": lambda: with_steps(
        over_characters("ab\n", []), pre_tokenizers.Digits(), pre_tokenizers.Sequence([pre_tokenizers.Whitespace()])
    ),
}


def spanning_fallback() -> Tokenizer:
    state = json.loads(llama().to_str())
    assert prompt_tokenizer(Tokenizer.from_str(json.dumps(state))).additive
    state["model"]["vocab"] |= {"<0x0A>s": len(state["model"]["vocab"])}
    state["model"]["merges"].append(["<0x0A>", "s"])
    return Tokenizer.from_str(json.dumps(state))


@pytest.mark.parametrize("name", UNPROVEN)
def test_unproven_tokenizers_are_refused(name: str) -> None:
    assert not prompt_tokenizer(UNPROVEN[name]()).additive


def test_of_the_made_tokenizers_two_add_up_and_two_do_not() -> None:
    # Tests of fitting run over them and have to see both.
    assert [name for name, make in MAKERS.items() if prompt_tokenizer(make()).additive] == ["byte_level", "llama"]


# --- any tokenizer at all -----------------------------------------------------------------------------------

_NORMALIZERS = [
    normalizers.NFC,
    normalizers.NFD,
    normalizers.NFKC,
    normalizers.Lowercase,
    lambda: normalizers.Prepend("▁"),
    lambda: normalizers.Replace(" ", "▁"),
    lambda: normalizers.Replace("\n", " "),
]
_PATTERNS = [GPT2, LLAMA3, DEEPSEEK, r"\s+", r"\n", r"[\r\n]", r"\s+$", r"\s?\w+", r"\p{N}{1,3}", r"(?<=\n)\w"]
_STEPS = [
    pre_tokenizers.Metaspace,
    lambda: pre_tokenizers.Metaspace(prepend_scheme="first"),
    lambda: pre_tokenizers.Metaspace(prepend_scheme="never", split=False),
    lambda: pre_tokenizers.Digits(individual_digits=True),
    pre_tokenizers.Digits,
    pre_tokenizers.Punctuation,
    *(
        (lambda behavior=behavior: pre_tokenizers.Split(" ", behavior))
        for behavior in ("isolated", "merged_with_previous")
    ),
    *((lambda pattern=pattern: split(pattern)) for pattern in _PATTERNS),
    lambda: pre_tokenizers.Split(Regex(r"\w+"), "merged_with_next"),
    lambda: pre_tokenizers.Split(Regex(GPT2), "removed", invert=True),
]
_ALPHABET = "ab .1é´▁\n"


def any_tokenizer(draw: random.Random) -> Tokenizer:
    over_all_bytes = draw.random() < 0.4
    letters = list("abĠ.1ĊÃ©") if over_all_bytes else [c for c in _ALPHABET if draw.random() < 0.85]
    base = pre_tokenizers.ByteLevel.alphabet() if over_all_bytes and draw.random() < 0.8 else letters
    fallback = [f"<0x{byte:02X}>" for byte in range(256)] if draw.random() < 0.4 else []
    entries = list(dict.fromkeys(["?", *sorted(base), *fallback]))
    if draw.random() < 0.7:
        joined, merges = list(letters), []
        for _ in range(draw.randrange(12)):
            pair = draw.choice(joined or ["a"]), draw.choice(joined or ["a"])
            if pair not in merges and set(pair) <= {*entries, *joined}:
                merges.append(pair)
                joined.append("".join(pair))
        options: dict[str, Any] = {"unk_token": "?"} if draw.random() < 0.7 else {}
        model = models.BPE(
            vocab={entry: number for number, entry in enumerate(dict.fromkeys(entries + joined))},
            merges=merges,
            fuse_unk=draw.random() < 0.5,
            byte_fallback=bool(fallback),
            ignore_merges=draw.random() < 0.3,
            **options,
        )
    else:
        scores = {entry: -3 - 5 * draw.random() for entry in entries}
        for _ in range(draw.randrange(12)):
            scores.setdefault(
                "".join(draw.choice(letters or ["a"]) for _ in range(draw.randrange(2, 5))), -8 * draw.random()
            )
        model = models.Unigram(list(scores.items()), 0, bool(fallback))
    tokenizer = Tokenizer(model)
    if normal := [draw.choice(_NORMALIZERS)() for _ in range(draw.randrange(3))]:
        tokenizer.normalizer = normalizers.Sequence(normal)
    steps = [draw.choice(_STEPS)() for _ in range(draw.randrange(3))]
    if over_all_bytes:
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=draw.random() < 0.5, use_regex=draw.random() < 0.5))
    if steps:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return tokenizer


def any_paragraph(draw: random.Random) -> str:
    first = draw.choice("aab.1é´漢\u0301“")
    return first + "".join(draw.choices("aabb  .1é´\u0301漢▁\n\n", k=draw.randrange(9))) + "\n" * draw.randrange(1, 4)


@pytest.mark.parametrize("block", [0, *(pytest.param(block, marks=pytest.mark.nightly) for block in (1, 2, 3))])
def test_claims_of_additivity_hold_for_any_tokenizer(block: int) -> None:
    claims = 0
    for seed in range(100 * block, 100 * block + 100):
        draw = random.Random(seed)
        tokenizer = prompt_tokenizer(any_tokenizer(draw))
        claims += tokenizer.additive
        for _ in range(30 if tokenizer.additive else 0):
            paragraphs = [any_paragraph(draw) for _ in range(draw.randrange(1, 4))]
            head, tail = draw.choice(["a\n", "b b.\n\n", "é\n \n"]), draw.choice(["b", "a 1", ". a"])
            expected = whole(tokenizer, paragraphs, head, tail)
            assert sum(map(tokenizer.cost, paragraphs)) == expected, (seed, paragraphs, head, tail)
    assert claims >= 5, "hardly any of these tokenizers claims anything"
