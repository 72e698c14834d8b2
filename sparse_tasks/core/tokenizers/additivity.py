r"""Proof that token counts add up over paragraphs.

The length fitter measures paragraphs one by one and adds. That is exact where the joint of two paragraphs, a newline
followed by something that is no white space, never influences the tokens on either side. It holds if

1. the normalizer leaves newlines alone and looks at no more than one character and its combining marks,
2. the pre-tokenizer is one whose decisions reach at most one character across the joint, and
3. the vocabulary knows the newline (unknown characters may be fused with their neighbours), and none of its entries
   contains one directly followed by something that is no white space: no merge (BPE) and no piece (Unigram) can span
   the joint.

All three are read off the serialised tokenizer. Where one fails, the fitter encodes the finished prompt once more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

__all__ = ["adds_up"]

_NORMALIZERS = {"NFC", "NFKC", "NFD", "NFKD", "Lowercase", "Prepend"}
_PRE_TOKENIZERS = {"ByteLevel", "Metaspace", "Digits", "Punctuation"}
_MODELS = {"BPE", "Unigram"}

# A newline as itself, as a byte-level character, as a fallback byte.
_NEWLINES = {"\n", "\u010a", "<0x0A>"}
_SPANS_PLAIN = re.compile("\n[^\\s\u2581]")
# In byte-level vocabularies every byte is written as a printable character; these six stand for white space.
_SPANS_BYTES = re.compile("\u010a[^\u0109\u010a\u010b\u010c\u010d\u0120]")


def adds_up(serialised: dict[str, Any]) -> bool:
    """Whether the tokenizer described by its ``tokenizer.json`` is proven to add up over paragraphs."""
    if serialised["model"]["type"] not in _MODELS:
        return False
    entries = set(_entries(serialised))
    normalizers = list(_flat(serialised.get("normalizer"), "normalizers"))
    pre_tokenizers = list(_flat(serialised.get("pre_tokenizer"), "pretokenizers"))
    return (
        all(_leaves_newlines(step) for step in normalizers)
        and all(_is_local(step) for step in pre_tokenizers)
        and not entries.isdisjoint(_NEWLINES)
        and not any(_SPANS_PLAIN.search(entry) or _SPANS_BYTES.search(entry) for entry in entries)
    )


def _flat(step: dict[str, Any] | None, children: str) -> Iterable[dict[str, Any]]:
    if step is None:
        return
    if step["type"] == "Sequence":
        for child in step[children]:
            yield from _flat(child, children)
    else:
        yield step


def _leaves_newlines(step: dict[str, Any]) -> bool:
    if step["type"] == "Replace":
        return bool(step["pattern"] == {"String": " "})
    return step["type"] in _NORMALIZERS


def _is_local(step: dict[str, Any]) -> bool:
    if step["type"] == "Split":
        pattern = step["pattern"].get("Regex")
        # A look-behind could see further back than the one character that the measurement provides.
        return step["pattern"].get("String") == " " or (pattern is not None and "(?<" not in pattern)
    return step["type"] in _PRE_TOKENIZERS


def _entries(serialised: dict[str, Any]) -> Iterable[str]:
    vocabulary = serialised["model"]["vocab"]
    if isinstance(vocabulary, dict):
        yield from vocabulary
    else:
        yield from (entry for entry, _ in vocabulary)
    yield from (token["content"] for token in serialised.get("added_tokens", []))
