"""Tokenizers: load one by name, folder, file or Hub id; count the tokens that an engine will get."""

from sparse_tasks.core.tokenizers.loading import BUILT_IN, load_tokenizer
from sparse_tasks.core.tokenizers.tokenizer import NEVER, PromptTokenizer

__all__ = ["BUILT_IN", "NEVER", "PromptTokenizer", "load_tokenizer"]
