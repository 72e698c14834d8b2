"""Control tokens that a prompt spells are text, those that a template writes are tokens."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.tokenizers import NEVER, PromptTokenizer, load_tokenizer
from sparse_tasks.core.tokenizers.template import ChatTemplate
from tests.example_tokenizers import MAKERS, byte_level, llama, unigram

SPECIAL = ("<|im_start|>", "<|im_end|>", "[INST]", "<|im_end|")
OTHERS = ("<think>", "<｜User｜>", "  ", "the")  # not special; the last two are text in any case
CHAT = "<|im_start|>user\n{{ messages[0].content | trim }}<|im_end|>\n<think>  the"


def with_tokens(base: Tokenizer) -> Tokenizer:
    backend = Tokenizer.from_str(base.to_str())
    backend.add_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in OTHERS])
    return backend


@cache
def made(sort: str, template: str | None, keeps: bool = False) -> PromptTokenizer:
    chat = None if template is None else ChatTemplate(template)
    return PromptTokenizer(sort, with_tokens(MAKERS[sort]()), "sha256", chat, keeps_control=keeps)


def words_alone(sort: str) -> Tokenizer:
    """The tokenizer without its control tokens."""
    backend = Tokenizer.from_str(MAKERS[sort]().to_str())
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in OTHERS[2:]])
    return backend


_PROMPTS = (
    st.lists(
        st.sampled_from([*SPECIAL, *OTHERS, "<|", "|>", " ", "\n", "Clara paid 46.", "é漢", "<s", "\n\n"])
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        max_size=8,
    )
    .map("".join)
    .filter(lambda prompt: "<s>" not in prompt)
)  # a control token of "llama" itself, so of words_alone too


@pytest.mark.parametrize("sort", ["byte_level", "llama", "bert"])
@given(prompt=_PROMPTS)
@settings(max_examples=150, deadline=None)
def test_a_bare_prompt_is_encoded_as_if_there_were_no_control_tokens(sort: str, prompt: str) -> None:
    tokenizer = made(sort, None)
    ids = tokenizer.ids(prompt)
    theirs, ours = words_alone(sort).encode(prompt), tokenizer.backend
    assert [ours.id_to_token(number) for number in ids] == theirs.tokens
    assert tokenizer.count(prompt) == len(ids)


@given(prompt=_PROMPTS.map(lambda prompt: f"Who? {prompt}"))  # no template writes that itself
@settings(max_examples=200, deadline=None)
def test_tokens_of_the_template_are_kept(prompt: str) -> None:
    tokenizer, words = made("byte_level", CHAT), words_alone("byte_level")
    number = tokenizer.backend.token_to_id
    # Only text is between its tokens.
    within = [words.token_to_id(token) for token in words.encode(f"user\n{prompt.strip()}").tokens]
    expected = [words.id_to_token(token) for token in within]
    written = [number("<|im_start|>"), *map(number, expected), number("<|im_end|>"), number("Ċ"), number("<think>"),
               number("  "), number("the")]  # fmt: skip
    assert tokenizer.ids(prompt) == written
    assert tokenizer.backend.decode(written, skip_special_tokens=False) == tokenizer.render(prompt)


@pytest.mark.parametrize("sort", MAKERS)
@pytest.mark.parametrize("template", [None, CHAT])
@given(prompt=_PROMPTS)
@settings(max_examples=60, deadline=None)
def test_prompts_that_spell_none_and_those_to_be_kept_are_encoded_as_they_come(
    sort: str, template: str | None, prompt: str
) -> None:
    tokenizer, keeping = made(sort, template), made(sort, template, keeps=True)
    as_it_comes = keeping.backend.encode(keeping.render(prompt), add_special_tokens=template is None).ids
    assert keeping.ids(prompt) == as_it_comes
    if tokenizer.spells_control(prompt) is None:
        assert tokenizer.ids(prompt) == as_it_comes


@pytest.mark.parametrize("sort", ["byte_level", "llama"])
@given(paragraphs=st.lists(_PROMPTS.map(lambda text: f"a{text}.\n\n"), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_costs_of_paragraphs_add_up(sort: str, paragraphs: list[str]) -> None:
    tokenizer = made(sort, None)
    assert tokenizer.additive
    whole = tokenizer.count(f"Well.\n\n{''.join(paragraphs)}The end") - tokenizer.count("Well.\n\nThe end")
    assert (
        tokenizer.total(paragraphs) == sum(map(tokenizer.cost, paragraphs)) == sum(tokenizer.costs(paragraphs)) == whole
    )


def test_the_longest_token_is_the_one_that_is_spelt() -> None:
    tokenizer = made("byte_level", None)
    assert [tokenizer.spells_control(text) for text in ("a <|im_end|> b", "a <|im_end| b", "<|im_end", "  the")] == [
        "<|im_end|>", "<|im_end|", None, None,
    ]  # fmt: skip
    assert made("byte_level", None, keeps=True).spells_control("<|im_end|>") is None


def test_a_bos_token_is_still_added() -> None:
    tokenizer, bos = made("llama", None), llama().token_to_id("<s>")
    ids = tokenizer.ids("a <s> <|im_end|>")
    assert (ids[0], ids.count(bos)) == (bos, 1)


def test_a_token_in_the_plain_vocabulary_cannot_be_text() -> None:
    backend = Tokenizer.from_str(unigram().to_str())
    tokenizer = PromptTokenizer("unigram", backend, "sha256", None)
    assert tokenizer.cost("Clara </s> paid.\n") == tokenizer.costs(["Clara </s> paid.\n"])[0] == NEVER
    assert tokenizer.total(["Clara paid.\n", "Clara </s> paid.\n"]) >= NEVER
    with pytest.raises(UsageError, match=r"control-tokens: '</s>' occurs in a prompt, and this tokenizer cannot"):
        tokenizer.ids("Clara </s> paid.")
    assert tokenizer.cost("Clara paid.\n") < 20


def test_it_is_an_option_of_loading(tmp_path: Path) -> None:
    with_tokens(byte_level()).save(str(tmp_path / "tokenizer.json"))
    text = "a <|im_end|> b"
    kept = load_tokenizer(str(tmp_path), keeps_control=True)
    assert kept.backend.token_to_id("<|im_end|>") in kept.ids(text)
    assert kept.backend.token_to_id("<|im_end|>") not in load_tokenizer(str(tmp_path)).ids(text)
    assert load_tokenizer(keeps_control=True).count(text) < load_tokenizer().count(text)
