"""Records of Every Eval Ever pass its own schemas, and say what was run."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sparse_tasks.evaluators.exports.every_eval_ever import files
from tests.evaluators.exports.conftest import Scored

DATA = Path(__file__).parent / "data"
PATH = re.compile(r"data/sparse-tasks/[^/]+/[^/]+/[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def validator(name: str) -> jsonschema.Draft7Validator:
    schema = json.loads((DATA / f"every_eval_ever-0.3.0-{name}.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    assert schema["version"] == "0.3.0"
    return jsonschema.Draft7Validator(schema)


def parts(scored: Scored) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    """The record's path, the record, its samples; checked against the schemas on the way."""
    written = scored.files(files)
    path, *others = written
    record = json.loads(written[path])
    validator("eval").validate(record)
    samples = [json.loads(line) for other in others for line in written[other].splitlines()]
    for sample in samples:
        validator("instance_level_eval").validate(sample)
    return path, record, samples


def test_a_record_and_its_samples_pass_the_published_schemas(scored: Scored) -> None:
    path, record, samples = parts(scored)
    assert PATH.sub("", path) == ".json"
    assert path.startswith("data/sparse-tasks/Qwen/Qwen3-8B/")
    assert len(record["evaluation_results"]) == 3
    assert len(samples) == 6


def test_hostile_text_passes_too(hostile: Scored) -> None:
    path, record, samples = parts(hostile)
    assert PATH.sub("", path) == ".json"
    assert record["model_info"]["name"] == hostile.run["model"]["name"]
    assert samples[0]["output"]["raw"] == [hostile.predictions[0]["text"]]


@pytest.mark.parametrize(
    "changes",
    [
        {"attention": {"method": "dense", "sparsity": 0.0, "arguments": {}}},
        {"attention": {"method": "quest", "sparsity": None, "arguments": {"budget": 512}}},
        {"sampling": {"temperature": 0.7, "seed": 1, "max_new_tokens": 256}},
        {"model": {"name": "tiny", "revision": None, "config_sha256": None, "sha256": "d" * 64, "shape": None}},
        {"engine": {"name": "openai", "version": None, "arguments": {}, "details": {}}},
    ],
)
def test_other_runs_pass_too(changes: dict[str, Any], scored: Scored) -> None:
    scored.run |= changes
    scored.run["dataset"] |= {"name": "made/here", "revision": None, "limit": 3}
    parts(scored)


def test_the_record_points_at_its_samples(scored: Scored) -> None:
    written = scored.files(files)
    path, samples_path = written
    pointer = json.loads(written[path])["detailed_evaluation_results"]
    assert samples_path == path.removesuffix(".json") + "_samples.jsonl"
    assert pointer["file_path"] == samples_path
    assert pointer["checksum"] == hashlib.sha256(written[samples_path]).hexdigest()
    assert pointer["total_rows"] == written[samples_path].count(b"\n") == 6


def test_without_samples_none_are_pointed_at(scored: Scored) -> None:
    scored.scores, scored.predictions = [], []
    assert len(scored.files(files)) == 1
    assert "detailed_evaluation_results" not in parts(scored)[1]


def test_samples_and_results_are_joined_by_their_keys(scored: Scored) -> None:
    _, record, samples = parts(scored)
    results = {one["evaluation_result_id"]: one for one in record["evaluation_results"]}
    assert list(results) == [
        "story_retrieval_64k@quest-0.9:ordered_fraction",
        "story_multihop_64k@quest-0.9:exact_match",
        "64k@quest-0.9:average",
    ]
    for sample in samples:
        assert sample["evaluation_id"] == record["evaluation_id"]
        assert sample["model_id"] == record["model_info"]["id"]
        assert sample["evaluation_name"] == results[sample["evaluation_result_id"]]["evaluation_name"]
    # The mean of the samples is the score of their result: unanswered ones count.
    for key, one in list(results.items())[:2]:
        values = [sample["evaluation"]["score"] for sample in samples if sample["evaluation_result_id"] == key]
        assert sum(values) / len(values) == one["score_details"]["score"]


def test_scores_lie_within_their_bounds_and_come_with_their_interval(scored: Scored) -> None:
    _, record, _ = parts(scored)
    for one in record["evaluation_results"]:
        config = one["metric_config"]
        details = one["score_details"]
        assert (config["min_score"], config["max_score"], config["lower_is_better"]) == (0.0, 1.0, False)
        interval = details["uncertainty"]["confidence_interval"]
        assert interval["lower"] <= details["score"] <= interval["upper"]
        assert interval["method"] in {"bootstrap", "mover"}
        assert details["uncertainty"]["num_samples"] in {3, 6}


def test_nominal_sparsity_is_called_so_and_measured_stands_apart(scored: Scored) -> None:
    _, record, samples = parts(scored)
    first, second, _ = record["evaluation_results"]
    setup = first["generation_config"]["additional_details"]
    assert setup["attention_method"] == "quest"
    assert setup["attention_nominal_sparsity"] == "0.9"
    assert setup["query_aware"] == "true"
    assert first["score_details"]["details"]["measured_sparsity_decode"] == "0.875"
    # Nothing was measured for the second: nothing is said, least of all the nominal value.
    assert not any("sparsity" in key for key in second["score_details"]["details"])
    assert samples[0]["metadata"]["measured_sparsity_decode"] == "0.875"


def test_an_unanswered_sample_is_wrong_and_not_absent(scored: Scored) -> None:
    _, _, samples = parts(scored)
    unparsed = samples[2]
    assert unparsed["answer_attribution"] == []
    assert unparsed["evaluation"] == {"score": 0.0, "is_correct": False}
    assert "token_usage" not in unparsed
    assert "error" not in unparsed
    assert samples[0]["token_usage"] == {"input_tokens": 65520, "output_tokens": 12, "total_tokens": 65532}
    assert samples[0]["performance"] == {"latency_ms": 2500.0, "time_to_first_token_ms": 500.0}


def test_time_is_that_of_the_run(scored: Scored) -> None:
    _, record, _ = parts(scored)
    assert record["retrieved_timestamp"] == record["evaluation_timestamp"] == "1795680000"


def test_unknown_values_are_not_claimed(scored: Scored) -> None:
    details = parts(scored)[1]["model_info"]["additional_details"]
    assert (details["deployment_type"], details["model_availability"]) == ("self_deployed", "open_weights")
    scored.run["engine"]["name"] = "openai"
    details = parts(scored)[1]["model_info"]["additional_details"]
    assert (details["deployment_type"], details["model_availability"]) == ("unknown", "unknown")
    assert parts(scored)[1]["source_metadata"]["evaluator_relationship"] == "other"


def test_another_result_is_another_record(scored: Scored) -> None:
    before = list(scored.files(files))
    scored.scores[0]["score"] = 0.75
    assert list(scored.files(files)) != before
