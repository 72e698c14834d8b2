"""Tokenizers: load one by name, folder, file or Hub id; count the tokens of what an engine will get."""

from sparse_tasks.core.tokenizers.loading import BUILT_IN, load_tokenizer
from sparse_tasks.core.tokenizers.tokenizer import PromptTokenizer

__all__ = ["BUILT_IN", "PromptTokenizer", "load_tokenizer"]
