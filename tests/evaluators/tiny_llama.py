"""Checkpoints of tiny Llamas."""

from __future__ import annotations

import shutil
from pathlib import Path

from sparse_tasks.core.tokenizers import load_tokenizer

__all__ = ["tiny_llama"]


def tiny_llama(folder: Path, tokenizer: Path, *, hidden_size: int, intermediate_size: int, positions: int) -> Path:
    """A Llama of two small layers with random weights, two heads and one KV head, and a tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shutil.copytree(tokenizer, folder)
    size = load_tokenizer(str(folder)).backend.get_vocab_size()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size, hidden_size=hidden_size, intermediate_size=intermediate_size, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=positions, bos_token_id=0,
        eos_token_id=size - 1, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
