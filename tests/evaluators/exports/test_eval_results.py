"""Entries for the Hub are what its own client reads, and say how the number came about."""

from __future__ import annotations

from typing import Any

import yaml
from huggingface_hub import eval_result_entries_to_yaml, parse_eval_result_entries

from sparse_tasks.evaluators.exports.eval_results import files
from tests.evaluators.exports.conftest import Scored


def entries(scored: Scored) -> list[dict[str, Any]]:
    (content,) = scored.files(files).values()
    loaded: list[dict[str, Any]] = yaml.safe_load(content)
    return loaded


def test_the_hubs_client_reads_the_entries_and_writes_the_same(scored: Scored) -> None:
    loaded = entries(scored)
    assert eval_result_entries_to_yaml(parse_eval_result_entries(loaded)) == loaded


def test_the_hubs_client_reads_hostile_text_as_it_was(hostile: Scored) -> None:
    loaded = entries(hostile)
    assert eval_result_entries_to_yaml(parse_eval_result_entries(loaded)) == loaded
    assert loaded[0]["dataset"]["revision"] == hostile.run["dataset"]["revision"]
    assert loaded[0]["dataset"]["task_id"].startswith(hostile.result["configs"][0]["task"])


def test_an_entry_a_configuration_and_one_an_average(scored: Scored) -> None:
    assert list(scored.files(files)) == [".eval_results/sparse-tasks-acme_stories-quest-0.9.yaml"]
    first, _, average = entries(scored)
    assert first == {
        "dataset": {
            "id": "acme/stories",
            "task_id": "story_retrieval_64k@quest-0.9",
            "revision": "0123456789abcdef0123456789abcdef01234567",
        },
        "value": 0.5,
        "date": "2026-11-26T08:00:00Z",
        "notes": first["notes"],
    }
    assert average["dataset"]["task_id"] == "64k@quest-0.9"
    assert average["value"] == 5 / 12


def test_the_notes_are_one_line_that_says_how(scored: Scored) -> None:
    first, second, average = entries(scored)
    for said in (
        "ordered_fraction",
        "n=3",
        "95% interval 0.1 to 0.9 (bootstrap)",
        "unparsed 0.3333",
        "attention quest at nominal sparsity 0.9",
        "measured sparsity: decode 0.875, prefill 0",
        "query-aware",
        "vllm 0.32.0",
        "sparse-tasks 0.1.0",
    ):
        assert said in first["notes"]
    assert "measured" not in second["notes"]
    assert "mean over story_retrieval, story_multihop" in average["notes"]
    assert all("\n" not in entry["notes"] for entry in entries(scored))


def test_dense_attention_has_plain_names(scored: Scored) -> None:
    scored.run["attention"] = {"method": "dense", "sparsity": 0.0, "arguments": {}}
    scored.run["query_aware"] = False
    assert list(scored.files(files)) == [".eval_results/sparse-tasks-acme_stories.yaml"]
    assert [entry["dataset"]["task_id"] for entry in entries(scored)] == [
        "story_retrieval_64k",
        "story_multihop_64k",
        "64k",
    ]
    assert "attention dense; not query-aware" in entries(scored)[0]["notes"]


def test_a_data_set_without_revision_claims_none(scored: Scored) -> None:
    scored.run["dataset"] |= {"name": "./out/stories", "revision": None}
    assert entries(scored)[0]["dataset"] == {"id": "stories", "task_id": "story_retrieval_64k@quest-0.9"}


def test_the_notes_name_budgets_that_were_set(scored: Scored) -> None:
    scored.run["attention"] = {"method": "quest", "sparsity": None, "arguments": {"quest.tokens": 512, "page": 32}}
    first, _, average = entries(scored)
    assert "attention quest with page=32, tokens=512; " in first["notes"]
    assert average["dataset"]["task_id"] == "64k@quest-page=32-tokens=512"
