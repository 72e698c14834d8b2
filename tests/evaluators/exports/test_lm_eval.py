"""Files laid out as lm-evaluation-harness lays them out, with its names and its way of reading them back."""

from __future__ import annotations

import json
from statistics import stdev
from typing import Any

import pytest

from sparse_tasks.evaluators.exports.lm_eval import files
from tests.evaluators.exports.conftest import Scored

# Fields of lm_eval.result_schema in lm-eval 0.4.13, as far as they apply to other runs.
RESULT_KEYS = {
    *("results", "groups", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples"),
    *("config", "date", "model_source", "model_name", "model_name_sanitized", "task_hashes"),
}
SAMPLE_KEYS = {
    *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"),
    *("doc_hash", "prompt_hash", "target_hash"),
}


# What lm-eval 0.4.13 adds of its environment and of the time that it took.
ENVIRONMENT_KEYS = {
    "git_hash", "pretty_env_info", "transformers_version", "lm_eval_version", "upper_git_hash", "system_instruction",
    "system_instruction_sha", "fewshot_as_multiturn", "chat_template", "chat_template_sha", "start_time", "end_time",
    "total_evaluation_time_seconds",
}  # fmt: skip


def results(scored: Scored) -> dict[str, Any]:
    written = scored.files(files)
    loaded: dict[str, Any] = json.loads(written[next(path for path in written if "/results_" in path)])
    return loaded


def samples(scored: Scored, task: str) -> list[dict[str, Any]]:
    written = scored.files(files)
    content = written[next(path for path in written if f"/samples_{task}" in path)]
    return [json.loads(line) for line in content.splitlines()]


def test_files_are_named_as_lm_eval_names_them(scored: Scored) -> None:
    assert list(scored.files(files)) == [
        "Qwen__Qwen3-8B/results_2026-11-26T08-00-00.json",
        "Qwen__Qwen3-8B/samples_story_multihop_64k@quest-0.9_2026-11-26T08-00-00.jsonl",
        "Qwen__Qwen3-8B/samples_story_retrieval_64k@quest-0.9_2026-11-26T08-00-00.jsonl",
    ]
    for path in scored.files(files):
        # Its readers take the parts between the first and the last underscore, and after it.
        name = path.rpartition("/")[2]
        assert name.rpartition("_")[2].removesuffix(".jsonl").removesuffix(".json") == "2026-11-26T08-00-00"


def test_results_have_lm_evals_keys_and_one_of_our_own(scored: Scored) -> None:
    loaded = results(scored)
    assert set(loaded) == RESULT_KEYS | ENVIRONMENT_KEYS | {"sparse_tasks"}
    # Required by its readers; lm-eval did not run this, so its version is not given.
    assert loaded["lm_eval_version"] == f"none: written by sparse-tasks {loaded['sparse_tasks']['version']}"
    assert {loaded[key] for key in ("git_hash", "upper_git_hash", "chat_template", "start_time", "end_time")} == {None}


def test_a_task_has_its_metric_with_filter_and_standard_error(scored: Scored) -> None:
    loaded = results(scored)
    task = "story_retrieval_64k@quest-0.9"
    assert loaded["results"][task] == {
        "name": task,
        "alias": task,
        "sample_len": 3,
        "ordered_fraction,none": 0.5,
        "ordered_fraction_stderr,none": pytest.approx(stdev([1.0, 0.5, 0.0]) / 3**0.5),
    }
    for table in ("configs", "versions", "n-shot", "n-samples", "higher_is_better"):
        assert set(loaded[table]) >= set(loaded["results"])
    assert loaded["n-samples"][task] == {"original": 3, "effective": 3}
    assert loaded["higher_is_better"][task] == {"ordered_fraction": True}


def test_an_unknown_standard_error_is_not_invented(scored: Scored) -> None:
    scored.scores = scored.scores[:1]
    assert results(scored)["results"]["story_retrieval_64k@quest-0.9"]["ordered_fraction_stderr,none"] == "N/A"
    assert results(scored)["groups"]["64k@quest-0.9"]["average_stderr,none"] == "N/A"


def test_an_average_is_a_group_of_tasks_that_are_there(scored: Scored) -> None:
    loaded = results(scored)
    assert loaded["groups"]["64k@quest-0.9"]["average,none"] == 5 / 12
    assert set(loaded["group_subtasks"]["64k@quest-0.9"]) == set(loaded["results"])


def test_a_limit_is_recorded_and_the_full_number_is_not_guessed(scored: Scored) -> None:
    scored.run["dataset"]["limit"] = 3
    loaded = results(scored)
    assert loaded["config"]["limit"] == 3
    assert loaded["n-samples"]["story_retrieval_64k@quest-0.9"] == {"effective": 3}


def test_what_lm_eval_has_no_field_for_is_kept(scored: Scored) -> None:
    loaded = results(scored)
    assert loaded["sparse_tasks"]["attention"] == scored.run["attention"]
    assert loaded["sparse_tasks"]["query_aware"] is True
    assert loaded["sparse_tasks"]["configs"] == scored.result["configs"]
    assert loaded["date"] == 1795680000


def test_sample_rows_have_lm_evals_keys(scored: Scored) -> None:
    rows = samples(scored, "story_retrieval_64k")
    assert [row["doc_id"] for row in rows] == [0, 1, 2]
    for row in rows:
        assert set(row) == SAMPLE_KEYS | {"ordered_fraction", "sparse_tasks"}
        assert row["metrics"] == ["ordered_fraction"]
        assert row["arguments"]["gen_args_0"]["arg_1"] == {"temperature": 0.0, "do_sample": False}
    assert rows[0]["resps"] == [["<answer>Otter Quay\nAnna</answer>"]]
    assert rows[0]["filtered_resps"] == ["Otter Quay\nAnna"]
    assert [row["ordered_fraction"] for row in rows] == [1.0, 0.5, 0.0]
    assert rows[2]["filtered_resps"] == [""]
    assert rows[2]["sparse_tasks"]["parsed"] is False


def test_a_sample_without_an_answer_is_there(scored: Scored) -> None:
    row = samples(scored, "story_multihop_64k")[2]
    assert (row["resps"], row["exact_match"]) == ([["Hm \u2028 \u00e9 \U0001f600"]], 0.0)


def test_tasks_with_hostile_names_do_not_share_a_file(hostile: Scored) -> None:
    written = hostile.files(files)
    assert len(written) == 3
    rows = [json.loads(line) for path in written if "/samples_" in path for line in written[path].splitlines()]
    assert sorted(row["doc"]["id"] for row in rows) == sorted(row["id"] for row in hostile.scores)
