"""A faster encoder, which may count in place of Hugging Face's while it is proven to give the same ids.

``fastokens`` reads the same ``tokenizer.json`` and caches encoded words. It only counts; model inputs are always
encoded by Hugging Face's. ``generators/encoding.py`` decides where it is used.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.core.errors import SparseTasksError

if TYPE_CHECKING:
    from fastokens._native import Encoding


class EncoderError(SparseTasksError):
    """The faster encoder does not support a tokenizer, or gives other ids than Hugging Face's."""


class Fastokens:
    """The encoder ``fastokens`` of a tokenizer.

    Args:
        serialised: The ``tokenizer.json``, without truncation and padding.
        splits_special: Whether special tokens are encoded as text.

    Raises:
        EncoderError: It does not support the tokenizer.
    """

    package: ClassVar[str] = "fastokens"

    def __init__(self, serialised: str, splits_special: bool = False) -> None:
        from fastokens import Tokenizer as Native

        try:
            self._native = Native.from_json_str(serialised)
        except BaseException as error:
            if _is_ours(error):
                raise
            raise EncoderError(f"does not support the tokenizer: {error}") from error
        self._splits = splits_special

    @classmethod
    def label(cls) -> str | None:
        """Name and version; None if it is not installed."""
        try:
            return f"{cls.package} {version(cls.package)}"
        except PackageNotFoundError:
            return None

    def ids(self, text: str, special: bool) -> list[int] | None:
        """Token ids of a text; None if it reports that it cannot encode the text.

        Args:
            text: The text.
            special: Whether the tokenizer adds its special tokens.
        """
        encoding = self._encoded(text, special)
        return None if encoding is None else list(encoding.ids)

    def count(self, text: str, special: bool) -> int | None:
        """Number of token ids of a text, as of ``ids``."""
        encoding = self._encoded(text, special)
        return None if encoding is None else len(encoding)

    def _encoded(self, text: str, special: bool) -> Encoding | None:
        try:
            return self._native.encode(text, special, self._splits)
        except BaseException as error:
            if _is_ours(error):
                raise
            return None


def _is_ours(error: BaseException) -> bool:
    """Whether an error is not the library's: its panics are no ``Exception`` either."""
    return isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
