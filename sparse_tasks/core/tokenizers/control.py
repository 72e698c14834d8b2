"""Control tokens that a prompt spells (``<|im_end|>``), encoded as the text that they are there.

Encoded as it comes, a text that spells a control token would give the model that token: a turn would end within a
document. Those that a chat template writes stay what they are.
"""

from __future__ import annotations

import json
import re
from functools import cached_property

from tokenizers import AddedToken, Tokenizer

# Some tokenizers call few of their control tokens special; but for brackets, others are runs of blanks, and words.
_BRACKETED = re.compile(r"[<\[|◁].*[>\]|▷]", re.S)
# Stands for a token in texts; no text holds the like.
_MARK = "\U0010fffd{}\U0010fffd"


class ControlText:
    """Encoder of texts in which some control tokens are text, and others are not.

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
        """The first control token that a text spells, if there is one."""
        found = self._pattern.search(text)
        return found and found[0]

    def ids(self, text: str, part: str, special: bool) -> list[int] | None:
        """Ids of ``text``, in which control tokens are text wherever ``part`` stands; None where that cannot be.

        Args:
            text: The text.
            part: Part of it.
            special: Whether the tokenizer adds its special tokens.
        """
        others = [self._pattern.sub(lambda found: self._marks[found[0]], other) for other in text.split(part)]
        marked = part.join(others)
        ids = self._marked.encode(marked, add_special_tokens=False).ids
        if not self._unwritten.isdisjoint(ids):
            return None  # the vocabulary has it among its words
        if special:
            ids = self._marked.encode(marked).ids
        return [self._meant.get(number, number) for number in ids]

    @cached_property
    def _marks(self) -> dict[str, str]:
        return {token.content: _MARK.format(number) for number, token in self._tokens.items()}

    @cached_property
    def _marked(self) -> Tokenizer:
        """The tokenizer with other spellings of the control tokens, which are read; theirs are not."""
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
        """The control tokens, but for the one that stands for unknown words."""
        model = json.loads(self._backend.to_str())["model"]
        unknown = model.get("unk_id", self._backend.token_to_id(model.get("unk_token") or ""))
        return self._tokens.keys() - {unknown}

    @cached_property
    def _meant(self) -> dict[int, int]:
        """The control tokens by the ids of their other spellings."""
        numbers = {self._marks[token.content]: number for number, token in self._tokens.items()}
        added = self._marked.get_added_tokens_decoder()
        return {other: numbers[token.content] for other, token in added.items() if token.content in numbers}
