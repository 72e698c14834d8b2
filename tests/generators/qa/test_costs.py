"""What documents cost is counted once, and a cache that is damaged or cannot be used does no harm."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.generators.qa import costs
from sparse_tasks.generators.qa.costs import document_costs

TEXTS = ["One.", "Two and three.", "Vier, fünf,\nsechs."]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARSE_TASKS_CACHE", str(tmp_path))
    monkeypatch.setattr(costs, "_counted", {})
    return tmp_path / "costs"


@pytest.fixture
def counting(qwen: PromptTokenizer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts were counted, each time that some were."""
    calls, count = list[int](), qwen.costs

    def counted(texts: list[str]) -> list[int]:
        calls.append(len(texts))
        return count(texts)

    monkeypatch.setattr(qwen, "costs", counted)
    return calls


def forget() -> None:
    costs._counted.clear()


def test_costs_are_those_of_paragraphs(qwen: PromptTokenizer) -> None:
    assert list(document_costs("a" * 64, TEXTS, qwen)) == [qwen.cost(f"{text}\n\n") for text in TEXTS]
    many = [f"Document {i} of many." for i in range(2100)]
    assert qwen.costs(many) == [qwen.cost(text) for text in many]
    assert qwen.costs([]) == []


def test_they_are_counted_once_per_process_and_machine(qwen: PromptTokenizer, counting: list[int], cache: Path) -> None:
    first = document_costs("a" * 64, TEXTS, qwen)
    assert document_costs("a" * 64, TEXTS, qwen) is first
    forget()
    assert document_costs("a" * 64, TEXTS, qwen) == first
    assert counting == [3]
    assert len(list(cache.iterdir())) == 1


def test_other_documents_and_other_tokenizers_are_counted_by_themselves(
    qwen: PromptTokenizer, counting: list[int], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document_costs("a" * 64, TEXTS, qwen)
    document_costs("b" * 64, TEXTS, qwen)
    monkeypatch.setattr(qwen, "sha256", "c" * 64)
    document_costs("a" * 64, TEXTS, qwen)
    assert counting == [3, 3, 3]
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-9],
        lambda content: b"\xff\xfe" + content,
        lambda content: b"[]",
        lambda content: b"{}",
        lambda content: b'{"costs": 3}',
        lambda content: b"[" * 100_000,
        lambda content: json.dumps(json.loads(content) | {"costs": [1, 2, 3]}).encode(),
        lambda content: json.dumps(json.loads(content) | {"costs": None}).encode(),
        lambda content: json.dumps(json.loads(content) | {"key": "x"}).encode(),
    ],
)
def test_a_damaged_file_is_written_again(
    damage: object, qwen: PromptTokenizer, counting: list[int], cache: Path
) -> None:
    expected = list(document_costs("a" * 64, TEXTS, qwen))
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))  # type: ignore[operator]
    forget()
    assert list(document_costs("a" * 64, TEXTS, qwen)) == expected
    assert counting == [3, 3]
    assert path.read_bytes() == whole


def test_a_read_only_cache_only_costs_time(
    qwen: PromptTokenizer, counting: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SPARSE_TASKS_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        assert len(document_costs("a" * 64, TEXTS, qwen)) == 3
        forget()
    assert counting == [3, 3]
    assert os.listdir(tmp_path) == ["file"]
