"""The one place where tokens are counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from functools import cache, cached_property
from typing import TYPE_CHECKING, Final

from sparse_tasks.core.errors import UsageError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

    from sparse_tasks.core.tokenizers.control import ControlText
    from sparse_tasks.core.tokenizers.fast import Fastokens
    from sparse_tasks.core.tokenizers.template import ChatTemplate

# Paragraphs are measured between these two, so that effects at a text's edges (a prefix space, a look-ahead) are the
# same as inside the prompt: a newline before, no white space after.
_BEFORE, _AFTER = "a\n", "a"
# Characters encoded in one call: long enough to amortise the call, short enough to stay in the CPU's caches.
_CHUNK = 2_048
# Paragraphs whose tokens are in memory at once.
_BATCH = 1_024

NEVER: Final = 2**40
"""Cost of a paragraph that cannot be encoded: it fits nowhere."""


class PromptTokenizer:
    """A tokenizer and the chat template around the prompt.

    Args:
        name: How the user named it.
        backend: The Hugging Face tokenizer, or a function that returns its ``tokenizer.json`` as text on first use.
        sha256: Hash of the tokenizer's source, which identifies it in the keys of samples.
        template: Wraps the prompt as the user's message; None leaves it bare.
        additive: Whether counts add up over paragraphs (see ``additivity``); None determines it on first use.
        keeps_control: Whether control tokens spelt in a prompt are tokens; else they are encoded as text.
        excerpt: Loads only the part of the Hugging Face tokenizer that a text needs, where that is faster.

    Attributes:
        encoder: Counts in its place where possible; None: the backend itself.
    """

    encoder: Fastokens | None = None

    def __init__(
        self,
        name: str,
        backend: Tokenizer | Callable[[], str],
        sha256: str,
        template: ChatTemplate | None,
        additive: bool | None = None,
        keeps_control: bool = False,
        excerpt: Callable[[str], Tokenizer] | None = None,
    ) -> None:
        self.name = name
        self.template = template
        self.sha256 = sha256
        self._backend = backend
        self._load = cache(self._loaded)
        self._additive = additive
        self.keeps_control = keeps_control
        self._excerpt = excerpt

    @cached_property
    def backend(self) -> Tokenizer:
        """The Hugging Face tokenizer, without truncation and padding; loaded on first use, once for all copies."""
        backend = self._load()
        # Settings left in a tokenizer.json would falsify every count.
        backend.no_truncation()
        backend.no_padding()
        return backend

    def _loaded(self) -> Tokenizer:
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self._backend()) if callable(self._backend) else self._backend

    @property
    def serialised(self) -> str:
        """The ``tokenizer.json`` of the backend, without loading it."""
        return self._backend() if callable(self._backend) else self.backend.to_str()

    @property
    def splits_special(self) -> bool:
        """Whether the backend encodes special tokens as text, a setting that ``tokenizer.json`` lacks."""
        return not callable(self._backend) and bool(self.backend.encode_special_tokens)

    @cached_property
    def _edges(self) -> int:
        return self._encoded(_BEFORE + _AFTER)

    @property
    def additive(self) -> bool:
        """Whether counts add up over paragraphs."""
        if self._additive is None:
            from sparse_tasks.core.tokenizers.additivity import adds_up

            self._additive = adds_up(self.backend)
        return self._additive

    def with_template(self, template: ChatTemplate | None) -> PromptTokenizer:
        """The same tokenizer with another chat template."""
        other = copy(self)
        other.template = template
        return other

    def with_encoder(self, encoder: type[Fastokens] | None) -> PromptTokenizer:
        """The same tokenizer, with another encoder; None for Hugging Face's.

        Raises:
            EncoderError: It does not support the tokenizer.
        """
        if encoder is None and self.encoder is None:
            return self
        other = copy(self)
        other.encoder = None if encoder is None else encoder(self.serialised, self.splits_special)
        return other

    def render(self, prompt: str, beginning: str = "", later: Sequence[str] = ()) -> str:
        """The text that the engine gets: the prompt in its chat template, if there is one.

        Args:
            prompt: The prompt.
            beginning: Beginning of the model's answer; the text ends with it.
            later: Messages after the prompt, the model's and the user's in turn; without a template one text.
        """
        if self.template is None:
            return "\n\n".join((prompt, *later)) + beginning
        return self.template.render(prompt, beginning, later)

    def ids(self, prompt: str, beginning: str = "", later: Sequence[str] = ()) -> list[int]:
        """The token ids that the engine gets, special tokens included.

        A chat template writes the special tokens itself, so the tokenizer must not add them again.

        Raises:
            UsageError: A later message spells a control token.
        """
        for message in later:
            if (token := self.spells_control(message)) is not None:
                remedy = "stands in a message of a chat, where it cannot be encoded as text; generate with "
                raise UsageError("control-tokens", token, remedy + "--control-tokens keep")
        return self.encode(self.render(prompt, beginning, later), prompt)

    def encode(self, text: str, prompt: str) -> list[int]:
        """The token ids of a rendered text, or of a prefix of it.

        Args:
            text: The text.
            prompt: The part of it outside the chat template, in which control tokens are text.

        Raises:
            UsageError: The prompt spells a control token that the tokenizer cannot encode as text.
        """
        special = self.template is None
        if self.spells_control(prompt) is None:
            ids: list[int] | None = self._ids(text, special)
        else:
            ids = self._control.ids(text, prompt.strip(), special)
        if ids is None:
            raise UsageError(
                "control-tokens",
                self.spells_control(prompt),
                "occurs in a prompt, and this tokenizer cannot encode it as text; generate with --control-tokens keep",
            )
        return ids

    def spells_control(self, text: str) -> str | None:
        """The first control token spelt in a text that is to be encoded as text; None if there is none."""
        return None if self.keeps_control else self._control.spelt(text)

    @cached_property
    def _control(self) -> ControlText:
        from sparse_tasks.core.tokenizers.control import ControlText

        return ControlText(self.backend)

    def count_once(self, prompt: str, beginning: str = "") -> int:
        """``count`` for a single prompt: loads only the part of the tokenizer that the prompt needs."""
        if self._excerpt is None or "backend" in self.__dict__:
            return self.count(prompt, beginning)
        other = copy(self)
        other.backend = self._excerpt(self.render(prompt, beginning))
        return other.count(prompt, beginning)

    def count(self, prompt: str, beginning: str = "", later: Sequence[str] = ()) -> int:
        """Tokens of the rendered prompt, encoded as a whole."""
        if any(self.spells_control(text) is not None for text in (prompt, *later)):
            return len(self.ids(prompt, beginning, later))
        return self._encoded(self.render(prompt, beginning, later), special=self.template is None)

    def cost(self, paragraph: str) -> int:
        """Tokens that ``paragraph`` adds between two others; ``NEVER`` if it cannot be encoded.

        It must not begin with white space, and must end in a newline.
        """
        if self.spells_control(paragraph) is not None:
            text = _BEFORE + paragraph + _AFTER
            ids = self._control.ids(text, text, special=False)
            return NEVER if ids is None else len(ids) - self._edges
        return self._encoded(_BEFORE + paragraph + _AFTER) - self._edges

    def costs(self, paragraphs: Sequence[str]) -> list[int]:
        """``cost`` of each, in batches."""
        if self.encoder is not None:
            return [self.cost(paragraph) for paragraph in paragraphs]
        costs: list[int] = []
        for first in range(0, len(paragraphs), _BATCH):
            texts = [_BEFORE + paragraph + _AFTER for paragraph in paragraphs[first : first + _BATCH]]
            costs += map(len, self.backend.encode_batch_fast(texts, add_special_tokens=False))
        return [
            tokens - self._edges if self.spells_control(paragraph) is None else self.cost(paragraph)
            for paragraph, tokens in zip(paragraphs, costs, strict=True)
        ]

    def total(self, paragraphs: Iterable[str]) -> int:
        """Total tokens of consecutive ``paragraphs``."""
        tokens, chunk, characters = 0, list[str](), 0
        for paragraph in paragraphs:
            chunk.append(paragraph)
            characters += len(paragraph)
            if characters >= _CHUNK:
                tokens += self.cost("".join(chunk))
                chunk, characters = [], 0
        return tokens + (self.cost("".join(chunk)) if chunk else 0)

    def _encoded(self, text: str, special: bool = False) -> int:
        tokens = None if self.encoder is None else self.encoder.count(text, special)
        return len(self._encoding(text, special)) if tokens is None else tokens

    def _ids(self, text: str, special: bool) -> list[int]:
        ids = None if self.encoder is None else self.encoder.ids(text, special)
        return self._encoding(text, special).ids if ids is None else ids

    def _encoding(self, text: str, special: bool) -> Encoding:
        # The batch call skips the offsets, which are not needed.
        return self.backend.encode_batch_fast([text], add_special_tokens=special)[0]
