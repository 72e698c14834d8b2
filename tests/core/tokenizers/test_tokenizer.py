"""Counting: what is counted is what the engine gets, special tokens and chat template included."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.core.tokenizers import PromptTokenizer, load_tokenizer
from tests.example_tokenizers import MAKERS

SORTS = ["qwen2.5", *MAKERS]


@pytest.fixture(scope="module")
def loaded(tokenizer_folders: dict[str, Path]) -> dict[tuple[str, str], PromptTokenizer]:
    return {
        (sort, template): load_tokenizer(str(tokenizer_folders.get(sort, sort)), template)
        for sort in SORTS
        for template in ("auto", "none")
    }


@pytest.mark.parametrize("template", ["auto", "none"])
@pytest.mark.parametrize("sort", SORTS)
@given(prompt=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@settings(max_examples=60, deadline=None)
def test_the_count_is_the_number_of_ids(
    sort: str, template: str, prompt: str, loaded: dict[tuple[str, str], PromptTokenizer]
) -> None:
    # The fast call that counts and the one that gives ids are two roads through the library.
    tokenizer = loaded[sort, template]
    assert tokenizer.count(prompt) == len(tokenizer.ids(prompt))


@pytest.mark.parametrize("sort", SORTS)
def test_the_template_is_counted(sort: str, loaded: dict[tuple[str, str], PromptTokenizer]) -> None:
    with_template, bare = loaded[sort, "auto"], loaded[sort, "none"]
    assert with_template.count("Well.") > bare.count("Well.")
    assert (
        with_template.ids("Well.") == bare.backend.encode(with_template.render("Well."), add_special_tokens=False).ids
    )


def test_words_cost_no_prefix_of_the_text(loaded: dict[tuple[str, str], PromptTokenizer]) -> None:
    # SentencePiece puts a blank in front of a text; inside the prompt there is none.
    llama = loaded["llama", "none"]
    alone = len(llama.backend.encode("Clara\n", add_special_tokens=False).ids)
    grown = llama.count("a\nClara\na") - llama.count("a\na")
    assert llama.cost("Clara\n") == grown != alone
