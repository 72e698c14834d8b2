"""The ids that a model gets are those that were counted, and they fit into its context."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, processors

from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.tokenizers import PromptTokenizer, load_tokenizer
from sparse_tasks.core.tokenizers.template import ChatTemplate
from sparse_tasks.evaluators.dataset import Dataset
from sparse_tasks.evaluators.prompts import check_context, count_tokens, made_for, requests
from tests.example_tokenizers import byte_level, llama, save

Refused = Callable[..., Any]
DOUBLED = "{{ bos_token }}{{ bos_token }}[user]{{ messages[0].content }}[assistant]"
ONCE = "{{ bos_token }}[user]{{ messages[0].content }}[assistant]"


@pytest.fixture(scope="module")
def own(model: Path) -> PromptTokenizer:
    """The tokenizer that the data set was made with."""
    return load_tokenizer(str(model))


@pytest.fixture(scope="module")
def other(tokenizer_folders: dict[str, Path]) -> PromptTokenizer:
    """Another one, with a beginning token."""
    return load_tokenizer(str(tokenizer_folders["llama"]))


def test_counts_hold_for_the_same_tokenizer_and_template(
    dataset: Dataset, own: PromptTokenizer, other: PromptTokenizer
) -> None:
    assert made_for(dataset, own)
    assert not made_for(dataset, other)
    assert not made_for(dataset, own.with_template(None))
    assert not made_for(dataset, own.with_template(ChatTemplate(ONCE)))


def test_valid_counts_come_from_the_data_set(
    dataset: Dataset, own: PromptTokenizer, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: PromptTokenizer, prompt: str, beginning: str) -> int:
        raise AssertionError("nothing is to be encoded")

    expected = [(row["id"], row["input_tokens"]) for row in rows]
    monkeypatch.setattr(PromptTokenizer, "count", never)
    for tokenizer in (own, None):
        found = list(count_tokens(dataset, dataset.select(), tokenizer, lambda: pytest.fail("counted")))
        assert [(sample.id, tokens) for sample, tokens in found] == expected


def test_another_tokenizer_counts_again(
    dataset: Dataset, own: PromptTokenizer, other: PromptTokenizer, rows: list[dict[str, Any]]
) -> None:
    for tokenizer in (other, own.with_template(None)):
        counted: list[None] = []
        found = list(count_tokens(dataset, dataset.select(), tokenizer, lambda counted=counted: counted.append(None)))
        assert [tokens for _, tokens in found] == [len(tokenizer.ids(row["prompt"])) for row in rows]
        assert [tokens for _, tokens in found] != [row["input_tokens"] for row in rows]
        assert len(counted) == len(rows)


def test_ids_match_the_data_sets_counts(dataset: Dataset, own: PromptTokenizer, rows: list[dict[str, Any]]) -> None:
    wanted = {row["id"]: 5 + row["index"] for row in rows if row["index"] != 1}
    found = list(requests(dataset, dataset.select(), own, wanted))
    asked = [row for row in rows if row["id"] in wanted]
    assert [request.id for request in found] == list(wanted)
    assert [len(request.ids) for request in found] == [row["input_tokens"] for row in asked]
    assert [request.max_new_tokens for request in found] == list(wanted.values())
    for request, row in zip(found, asked, strict=True):
        assert request.prompt == row["prompt"]
        assert own.backend.decode(request.ids, skip_special_tokens=False) == own.render(row["prompt"])


def test_requests_are_made_one_at_a_time(
    dataset: Dataset, own: PromptTokenizer, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    ids = PromptTokenizer.ids
    monkeypatch.setattr(PromptTokenizer, "ids", lambda self, prompt, *_: encoded.append(prompt) or ids(self, prompt))
    asked = requests(dataset, dataset.select(), own, {row["id"]: 1 for row in rows})
    next(asked)
    next(asked)
    assert encoded == [row["prompt"] for row in rows[:2]]


def beginning(tokenizer: Tokenizer, template: str | None, folder: Path, dataset: Dataset) -> list[int]:
    """The first ids of the first prompt."""
    loaded = load_tokenizer(str(save(tokenizer, folder, template)))
    first = next(row["id"] for row in dataset.rows(dataset.select(limit=1), ["id"]))
    return next(requests(dataset, dataset.select(), loaded, {first: 1})).ids[:3]


def changed(tokenizer: Tokenizer, single: str) -> Tokenizer:
    """A copy with another post-processor."""
    found = Tokenizer.from_str(tokenizer.to_str())
    found.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<s>", found.token_to_id("<s>"))]
    )
    return found


def test_a_template_that_doubles_the_beginning_is_refused(tmp_path: Path, dataset: Dataset, refused: Refused) -> None:
    with refused(UsageError, "chat-template: '<s>'", "twice at the beginning", "--chat-template FILE"):
        beginning(llama(), DOUBLED, tmp_path, dataset)


def test_a_post_processor_that_doubles_the_beginning_is_refused(
    tmp_path: Path, dataset: Dataset, refused: Refused
) -> None:
    with refused(UsageError, "chat-template: '<s>'", "twice at the beginning", "post-processor"):
        beginning(changed(llama(), "<s> <s> $A"), None, tmp_path, dataset)


def test_a_tokenizer_that_adds_what_the_template_wrote_does_not_double_it(tmp_path: Path, dataset: Dataset) -> None:
    bos = llama().token_to_id("<s>")
    assert [token == bos for token in beginning(llama(), ONCE, tmp_path / "a", dataset)] == [True, False, False]
    assert [token == bos for token in beginning(llama(), None, tmp_path / "b", dataset)] == [True, False, False]


def test_a_doubled_token_in_the_text_is_accepted(tmp_path: Path, dataset: Dataset) -> None:
    first, second, _ = beginning(byte_level(), "!!!!{{ messages[0].content }}", tmp_path / "a", dataset)
    assert first == second
    added = Tokenizer.from_str(byte_level().to_str())
    added.add_tokens(["[tab]"])  # one token, and no special one
    first, second, _ = beginning(added, "[tab][tab]{{ messages[0].content }}", tmp_path / "b", dataset)
    assert first == second == added.token_to_id("[tab]")


NEEDS = [(8192, 8190, 100), (4096, 4090, 300), (4096, 4095, 200), (2048, 2040, 10)]


def test_fitting_prompts_give_the_largest_need() -> None:
    assert check_context(NEEDS, None) == 8290
    assert check_context(NEEDS, 8290) == 8290
    assert check_context(NEEDS[1:], 8290) == 4390


def test_the_shortest_length_that_does_not_fit_is_named(refused: Refused) -> None:
    with refused(UsageError, "length: 8192 ", "8,190 tokens", "up to 100 ", "context of 8,289", "--length"):
        check_context(NEEDS, 8289)
    with refused(UsageError, "length: 4096 ", "4,090 tokens", "up to 300 ", "context of 4,300", "--max-new-tokens"):
        check_context(NEEDS, 4300)
    with refused(UsageError, "length: 2048 ", "2,040 tokens", "up to 10 ", "context of 10"):
        check_context(NEEDS, 10)
