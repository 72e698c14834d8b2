"""The choice of the encoder that counts, and the proof that a faster one is correct.

A faster encoder is used if it gives Hugging Face's ids on two megabytes of hard text and of our own prose. The verdict
is cached by the tokenizer's hash. One sample in a hundred of each file, including the last, is then encoded by both. At
the first difference everything counted by the faster encoder is made again with Hugging Face's, which is used alone
from then on.
"""

from __future__ import annotations

import hashlib
import json
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Final, TypeVar

from sparse_tasks.core.errors import OutputError, UsageError, nearest
from sparse_tasks.core.files import write_whole
from sparse_tasks.core.records import JsonObject
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.core.tokenizers.fast import EncoderError, Fastokens
from sparse_tasks.core.tokenizers.loading import cache_folder
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import TASKS

Result = TypeVar("Result")
Notice = Callable[[str], object]
"""Told what a user should know."""

ENCODERS: Final = ("auto", "hf")
"""Choices of a user: a proven encoder wherever it pays, or Hugging Face's alone."""
FAST: Final = Fastokens
COMPARED: Final = 2**19
"""Characters of a sample that are encoded by both encoders (128k tokens), which bounds the cost."""

_EVERY: Final = 100  # of this many samples of a file, one is encoded by both encoders
_PAYS: Final = 2**21  # tokens above which the encoder saves more time than it takes to load
_PROOF: Final = 1  # version of the texts of the proof

# Characters of the random texts; the longer ones are joined sequences, whole and broken.
_ODD: Final = (
    *(" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", "\x0b", "\x0c", "\x85", "\xa0", "\u2003", "\u2028", "\u3000"),
    *("\u200b", "\u200c", "\u200d", "\u200e", "\u200f", "\u2060", "\ufeff", "\ufe0f", "\ufffd", "\xad", "\x00", "\x7f"),
    *("0", "1", "23", "456", "7890", "1,234.5", "٣", "४२", "²", "½", "Ⅳ", "１２", "𝟗"),
    *("a", "the", "THE", "Straße", "ﬁn", "İ", "ı", "ſ", "Å", "A\u030a"),
    *("é", "e\u0301", "q\u0323\u0307", "o\u0308\u0323", "Ελλάδα", "жизнь", "ქართული", "العربية", "עברית", "𐐀", "𝒜"),
    *("'s", "'S", "'ll", "'LL", "’s", "'ſ", "n't", "'", "''", '"', "“", "”", "…", "—", "_", "-", "--", "...", "://"),
    *("漢字", "かな", "カ゛", "한국어", "\u1112\u1161\u11ab", "ไทย", "हिन्दी"),
    *("😀", "👩‍👩‍👧‍👦", "👩\u200d", "\u200d👦", "🏳️‍🌈", "🇵🇱", "🇵", "🇵🇱🇩", "👍🏽", "🏽", "1️⃣", "\u20e3", "❤️", "☎︎"),
    *("\u0301", "\u0345", "\u0316\u0301", "\u094d", "\u0e33", "\u1161", "\u11a8", "\u3099", "\U000e0061", "\U0010fffd"),
    *("<", ">", "</", "<|", "|>", "[", "]", "{", "}", "(", ")", "#", "$", "%", "&", "*", "+", "=", "^", "~", "`", "\\"),
)  # fmt: skip
_LONG: Final = (
    " ",
    "\n",
    "\t",
    "\r\n",
    " \n",
    "0",
    "12",
    "a",
    "aB",
    "é",
    "e\u0301",
    ".",
    "=",
    "-",
    "漢",
    "😀",
    "\u0301",
)


def choose(tokenizer: PromptTokenizer, tokens: int, choice: str, notice: Notice) -> type[Fastokens] | None:
    """The encoder for counting this many tokens; None for Hugging Face's.

    Args:
        tokenizer: The tokenizer.
        tokens: Tokens to count; for few, loading another encoder does not pay.
        choice: One of ``ENCODERS``.
        notice: Called if the encoder turns out to differ.

    Raises:
        UsageError: The choice is unknown.
    """
    if choice not in ENCODERS:
        raise UsageError("encoder", choice, nearest(choice, ENCODERS))
    if not pays(tokens, choice):
        return None
    record = _record(tokenizer, FAST)
    if (proven := _proven(record)) is None:
        try:
            _prove(tokenizer, FAST)
        except _UnsupportedError:
            _keep(record, False)
            return None
        except EncoderError as error:
            _refuse(record, FAST, error, notice)
            return None
        _keep(record, True)
    return FAST if proven in (None, True) else None


def pays(tokens: int, choice: str) -> bool:
    """Whether the faster encoder, once proven, should count this many tokens; a user's ``choice`` may forbid it."""
    return choice == "auto" and tokens >= _PAYS and FAST.label() is not None


def by_both(first: int, last: int) -> range:
    """Indices from ``first`` to ``last - 1`` of the samples of a file that both encoders encode.

    They are the last of each hundred, so that an encoder that starts to fail within a file is caught before the file is
    kept.
    """
    return range(last - 1, first - 1, -_EVERY)


def with_fallback(
    tokenizer: PromptTokenizer,
    encoder: type[Fastokens] | None,
    work: Callable[[type[Fastokens] | None], Result],
    notice: Notice,
    undo: Callable[[str], None] = lambda label: None,
) -> Result:
    """Run ``work`` with an encoder, and again with Hugging Face's if the encoder turns out to differ.

    Args:
        tokenizer: The tokenizer.
        encoder: The encoder to start with.
        work: Raises ``EncoderError`` if the encoder is wrong.
        notice: Called if it was.
        undo: Discards what the encoder with this name and version has counted.
    """
    try:
        return work(encoder)
    except EncoderError as error:
        if encoder is None:
            raise
        undo(encoder.label() or encoder.package)
        _refuse(_record(tokenizer, encoder), encoder, error, notice)
    return work(None)


def compare(tokenizer: PromptTokenizer, text: str, prompt: str, where: str) -> None:
    """Check that a tokenizer's encoder gives Hugging Face's ids for the beginning of a rendered text.

    Args:
        tokenizer: The tokenizer, with any encoder.
        text: The rendered text.
        prompt: The part of it outside the chat template.
        where: What the text is, for the error.

    Raises:
        EncoderError: The ids differ.
    """
    text = text[:COMPARED]
    if tokenizer.encode(text, prompt) != tokenizer.with_encoder(None).encode(text, prompt):
        raise EncoderError(f"{where} has other ids")


class _UnsupportedError(EncoderError):
    """The encoder does not support this type of tokenizer."""


def _prove(tokenizer: PromptTokenizer, encoder: type[Fastokens]) -> None:
    """Compare both encoders on the texts of the proof.

    Raises:
        EncoderError: They differ.
    """
    try:
        fast = encoder(tokenizer.serialised, tokenizer.splits_special)
    except EncoderError as error:
        raise _UnsupportedError(str(error)) from error
    for number, text in enumerate(texts(tokenizer)):
        special = number % 2 == 0
        # Twice, since the encoder's cache may be wrong, too.
        expected = tokenizer.backend.encode_batch_fast([text], add_special_tokens=special)[0].ids
        if any(fast.ids(text, special) not in (None, expected) for _ in range(2)):
            raise EncoderError(f"text {number} of the proof has other ids")


def texts(tokenizer: PromptTokenizer) -> Iterator[str]:
    """The texts of the proof, at least two megabytes, which depend only on the tokenizer's vocabulary."""
    stream = Stream("proof", _PROOF)
    characters = [
        character
        for character in map(chr, range(sys.maxunicode + 1))
        if unicodedata.category(character) not in ("Cn", "Cs", "Co")
    ]
    yield from _pieces("".join(characters))
    yield from _pieces("".join(stream.sample(characters, len(characters) // 3)))
    yield from (text * n for text in _LONG for n in (*range(1, 9), 63, 64, 65, 1000, 4097))
    control = [token.content for token in tokenizer.backend.get_added_tokens_decoder().values()][:200]
    broken = [part for text in control for part in (text, text[:-1], text[1:], text.upper(), f" {text}", f"{text}\n")]
    odd = (*_ODD, *broken[:: max(1, len(broken) // len(_ODD))])
    yield from (f"a{part}{part}b {part} c" for part in (*_ODD, *broken))
    for n in (3, 30, 300, 3000):
        for _ in range(30_000 // n):
            yield "".join(stream.choice(odd) for _ in range(n))
    size = tokenizer.backend.get_vocab_size()
    words = [tokenizer.backend.decode([stream.below(size)], skip_special_tokens=False) for _ in range(30_000)]
    for joint in ("", " ", "\n"):
        yield from (joint.join(words[first : first + 300]) for first in range(0, len(words) // 3, 300))
        words = words[len(words) // 3 :]
    for kind in TASKS:
        if "corpus" not in kind.texts and not kind.sized_in_tokens:
            task = kind.from_settings({})
            for doublings in range(8):
                draft = task.compose(stream.fork(task.name, doublings), task.smallest() << doublings, Depth())
                yield (text := draft.preview + draft.intro + "".join(draft.texts()) + draft.question)
                if len(text) > 2**14:
                    break


def _pieces(text: str) -> Iterator[str]:
    """A text split into parts of several lengths."""
    first, lengths = 0, (50, 500, 5000)
    for number in range(len(text)):
        length = lengths[number % 3]
        yield text[first : first + length]
        first += length
        if first >= len(text):
            return


def _record(tokenizer: PromptTokenizer, encoder: type[Fastokens]) -> Path:
    """The file of a verdict."""
    made_of = [encoder.label(), version("tokenizers"), _PROOF, tokenizer.splits_special, tokenizer.serialised]
    return cache_folder() / "encoders" / f"{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]}.json"


def _proven(record: Path) -> bool | None:
    """The cached verdict; None if there is none or it cannot be read."""
    try:
        content: JsonObject = json.loads(record.read_bytes())
        return content["same"] if isinstance(content["same"], bool) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _keep(record: Path, same: bool) -> None:
    with suppress(OutputError):  # not cached: it will be proven again
        write_whole(record, json.dumps({"same": same}).encode())


def _refuse(record: Path, encoder: type[Fastokens], error: EncoderError, notice: Notice) -> None:
    _keep(record, False)
    notice(f"{encoder.label()} does not give the token ids of Hugging Face's tokenizers here, which count now: {error}")
