r"""Whether token counts add up over paragraphs.

The length fitter measures paragraphs one by one and adds. That is exact where the joint of two paragraphs, a newline
followed by something other than white space, never influences the tokens on either side. It holds if

1. the normalizer leaves newlines alone and looks at no more than one character and its combining marks,
2. the pre-tokenizer looks at most one character across the joint, and the class of that character makes no difference,
3. the vocabulary knows the newline (unknown characters may be fused with their neighbours) and drops no character
   (dropped ones bring their neighbours together), and
4. none of its entries contains a newline directly followed by something other than white space: no merge (BPE) and no
   piece (Unigram) can span the joint.

All of this is read from the serialised tokenizer, except the last part of 2, which is tested with every class of
characters that pre-tokenizers distinguish. Where a condition fails, the fitter encodes the finished prompt once more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer

from sparse_tasks.core.records import JsonObject

# Not NFKC and NFKD: they turn some characters (an accent by itself) into ones that begin with a blank.
_NORMALIZERS = {"NFC", "NFD", "Lowercase", "Prepend"}
_PRE_TOKENIZERS = {"ByteLevel", "Metaspace", "Digits", "Punctuation"}
_MODELS = {"BPE", "Unigram"}

# A newline as itself or as a fallback byte.
_SPANS_PLAIN = re.compile("\n[^\\s\u2581]|<0x0A>.")
# Byte-level vocabularies write every byte as a printable character; these six stand for white space.
_SPANS_BYTES = re.compile("\u010a[^\u0109\u010a\u010b\u010c\u010d\u0120]")

# All bytes, as byte-level vocabularies write them and as byte fallback does.
_BYTES = set(ByteLevel.alphabet())
_FALLBACK = {f"<0x{byte:02X}>" for byte in range(256)}

# Characters that paragraphs end and begin with.
_ENDS = [
    end + newlines for end in ("a", "1", ".", "漢", "a ") for newlines in ("\n", "\n\n", "\n\n\n", "\n \n", "\r\n\r\n")
]
_STARTS = (
    *("a", "A", "é", "ж", "ع", "अ", "漢", "か", "한", "ʼ"),  # letters, with and without case
    *("1", "12", "123", "1234", "٣", "²", "½", "Ⅳ"),  # numbers
    *(".", "...", ",", "-", "_", "(", "“", "”", "'", '"', "'s", "’s", "#", "/", "*", "—", "…", "。"),  # punctuation
    *("$", "€", "+", "<", "^", "~", "|", "😀", "\u0301", "\u200b"),  # symbols, marks, formats
)


def adds_up(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer's counts are known to add up over paragraphs."""
    serialised = json.loads(tokenizer.to_str())
    if serialised["model"]["type"] not in _MODELS:
        return False
    entries = set(_entries(serialised))
    normalizers = list(_flat(serialised.get("normalizer"), "normalizers"))
    pre_tokenizers = list(_flat(serialised.get("pre_tokenizer"), "pretokenizers"))
    return (
        all(_leaves_newlines(step) for step in normalizers)
        and all(_is_local(step) for step in pre_tokenizers)
        and _knows(serialised["model"], entries, any(step["type"] == "ByteLevel" for step in pre_tokenizers))
        and not any(_SPANS_PLAIN.search(entry) or _SPANS_BYTES.search(entry) for entry in entries)
        and (tokenizer.pre_tokenizer is None or _joins(tokenizer.pre_tokenizer))
    )


def _knows(model: JsonObject, entries: set[str], byte_level: bool) -> bool:
    """Whether the newline is known and no character is dropped."""
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return False  # the newline has several spellings
    if byte_level:
        return entries.issuperset(_BYTES)
    if model["type"] == "BPE" and model.get("byte_fallback") and entries.issuperset(_FALLBACK):
        return True
    return "\n" in entries and (model["type"] == "Unigram" or model.get("unk_token") is not None)


def _flat(step: JsonObject | None, children: str) -> Iterable[JsonObject]:
    if step is None:
        return
    if step["type"] == "Sequence":
        for child in step[children]:
            yield from _flat(child, children)
    else:
        yield step


def _leaves_newlines(step: JsonObject) -> bool:
    if step["type"] == "Replace":
        return bool(step["pattern"] == {"String": " "})
    return step["type"] in _NORMALIZERS


def _is_local(step: JsonObject) -> bool:
    if step["type"] == "Split":
        if step["pattern"].get("String") == " ":
            return True
        pattern = step["pattern"].get("Regex")
        # Merged pieces reach far, and a look-behind may see more than the one character used in measuring.
        whole = (step["behavior"], step["invert"]) in (("Isolated", False), ("Removed", True))
        return whole and pattern is not None and "(?<" not in pattern
    return step["type"] in _PRE_TOKENIZERS


def _joins(pre_tokenizer: PreTokenizer) -> bool:
    """Whether each side of a joint is split into the same pieces whatever is on the other side."""
    starts = [start + more for start in _STARTS for more in ("\n", "b\n")]
    before = {end: _cut(pre_tokenizer, end, "a")[0] for end in _ENDS}
    after = {start: _cut(pre_tokenizer, "a\n", start)[1] for start in starts}
    return all(_cut(pre_tokenizer, end, start) == (before[end], after[start]) for end in _ENDS for start in starts)


def _cut(pre_tokenizer: PreTokenizer, end: str, start: str) -> tuple[list[object], list[object]]:
    """The pieces on either side of the joint: their offsets, whether they cross it, and their prefixes."""
    joint = len(end)
    pieces = [(first, last, text[:1]) for text, (first, last) in pre_tokenizer.pre_tokenize_str(end + start)]
    left: list[object] = [(first, min(last, joint + 1), head) for first, last, head in pieces if first < joint]
    right: list[object] = [
        (max(first - joint, 0), last - joint, head if first >= joint else "")
        for first, last, head in pieces
        if last > joint
    ]
    return left, right


def _entries(serialised: JsonObject) -> Iterable[str]:
    vocabulary = serialised["model"]["vocab"]
    if isinstance(vocabulary, dict):
        yield from vocabulary
    else:
        yield from (entry for entry, _ in vocabulary)
    yield from (token["content"] for token in serialised.get("added_tokens", []))
