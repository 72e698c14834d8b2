"""Small tokenizers of every sort, trained on the spot: no network, no opaque files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.grammar import scenes

__all__ = ["MAKERS", "bert", "byte_level", "llama", "save", "unigram"]

CHAT = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}] {{ message.content | trim }}[end]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@cache
def byte_level() -> Tokenizer:
    """GPT-2's sort: byte-level BPE whose pattern looks ahead over white space."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        _corpus(), trainers.BpeTrainer(vocab_size=1200, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


@cache
def llama() -> Tokenizer:
    """Llama 2's sort: SentencePiece BPE over the whole text, bytes as fallback, a BOS token in front."""
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>", *pieces]
    # Without a pre-tokenizer whole sentences would be learnt; this one serves for training alone. Like SentencePiece's,
    # it learns no piece over a line's end.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", behavior="isolated"), pre_tokenizers.Metaspace()]
    )
    tokenizer.train_from_iterator(
        _corpus(), trainers.BpeTrainer(vocab_size=1200, special_tokens=special, show_progress=False)
    )
    state = json.loads(tokenizer.to_str())
    state["pre_tokenizer"] = None
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in ("<unk>", "<s>", "</s>")]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    return tokenizer


@cache
def unigram() -> Tokenizer:
    """T5's sort: Unigram pieces that begin words, newlines turned into blanks; adds an end token."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("\n", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        _corpus(),
        trainers.UnigramTrainer(
            vocab_size=900, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return tokenizer


@cache
def bert() -> Tokenizer:
    """BERT's sort: WordPiece over words; white space costs nothing."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        _corpus(), trainers.WordPieceTrainer(vocab_size=1200, special_tokens=["[UNK]"], show_progress=False)
    )
    return tokenizer


MAKERS: dict[str, Callable[[], Tokenizer]] = {
    "byte_level": byte_level,
    "llama": llama,
    "unigram": unigram,
    "bert": bert,
}


def save(tokenizer: Tokenizer, folder: Path, template: str | None = CHAT) -> Path:
    """A folder as ``save_pretrained`` writes it, with a chat template if one is given."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": {"content": "<s>", "special": True}, "eos_token": "</s>"}
    texts = {"bos_token": "<s>", "eos_token": "</s>"}
    config: dict[str, object] = {name: named[name] for name in named if tokenizer.token_to_id(texts[name]) is not None}
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _corpus() -> Iterator[str]:
    stream = Stream("corpus")
    elements = list(scenes().values())
    for i in range(400):
        text = stream.choice(elements).expand(stream)
        for slot, word in (("{hero}", "Clara"), ("{He}", "She"), ("{he}", "she"), ("{date}", "Monday, 3 May 1875")):
            text = text.replace(slot, word)
        yield f"Chapter {i}\n\n{text} The value of 7f3k9x is 46 crowns.\n\nVAR ABXYZ = 12345\n"
