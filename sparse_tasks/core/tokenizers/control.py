"""Control tokens spelt in a prompt (``<|im_end|>``), encoded as plain text.

Otherwise a text that spells a control token would give the model that token, and a turn could end within a document.
Tokens written by a chat template remain tokens.
"""

from __future__ import annotations

import json
import re
from functools import cached_property

from tokenizers import AddedToken, Tokenizer

# Some tokenizers mark few of their control tokens as special. Added tokens without brackets are blanks and words.
_BRACKETED = re.compile(r"[<\[|◁].*[>\]|▷]", re.S)
# Placeholder for a token in texts; no text contains it.
_MARK = "\U0010fffd{}\U0010fffd"


class ControlText:
    """Encoder of texts in which some control tokens are plain text and others are tokens.

    Args:
        backend: The tokenizer.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        added = backend.get_added_tokens_decoder()
        self._tokens = {
            number: token for number, token in added.items() if token.special or _BRACKETED.fullmatch(token.content)
        }
        spelt = sorted((re.escape(token.content) for token in self._tokens.values()), key=len, reverse=True)
        self._pattern = re.compile("|".join(spelt) or r"(?!)")

    def spelt(self, text: str) -> str | None:
        """The first control token spelt in a text, if any."""
        found = self._pattern.search(text)
        return found and found[0]

    def ids(self, text: str, part: str, special: bool) -> list[int] | None:
        """Ids of ``text``, with control tokens inside ``part`` encoded as text; None if that is impossible.

        Args:
            text: The text.
            part: Part of it.
            special: Whether the tokenizer adds its special tokens.
        """
        others = [self._pattern.sub(lambda found: self._marks[found[0]], other) for other in text.split(part)]
        marked = part.join(others)
        ids = self._marked.encode(marked, add_special_tokens=False).ids
        if not self._unwritten.isdisjoint(ids):
            return None  # it is an ordinary entry of the vocabulary
        if special:
            ids = self._marked.encode(marked).ids
        return [self._meant.get(number, number) for number in ids]

    @cached_property
    def _marks(self) -> dict[str, str]:
        return {token.content: _MARK.format(number) for number, token in self._tokens.items()}

    @cached_property
    def _marked(self) -> Tokenizer:
        """The tokenizer with its control tokens respelt, so that their usual spellings are text."""
        state = json.loads(self._backend.to_str())
        for token in state["added_tokens"]:
            token["special"] = token["id"] in self._tokens or token["special"]
        marked = Tokenizer.from_str(json.dumps(state))
        marked.encode_special_tokens = True
        marked.add_tokens(
            [
                AddedToken(self._marks[token.content], lstrip=token.lstrip, rstrip=token.rstrip, normalized=False)
                for token in self._tokens.values()
            ]
        )
        return marked

    @cached_property
    def _unwritten(self) -> set[int]:
        """The control tokens, without the one for unknown words."""
        model = json.loads(self._backend.to_str())["model"]
        unknown = model.get("unk_id", self._backend.token_to_id(model.get("unk_token") or ""))
        return self._tokens.keys() - {unknown}

    @cached_property
    def _meant(self) -> dict[int, int]:
        """The control tokens by the ids of their new spellings."""
        numbers = {self._marks[token.content]: number for number, token in self._tokens.items()}
        added = self._marked.get_added_tokens_decoder()
        return {other: numbers[token.content] for other, token in added.items() if token.content in numbers}
