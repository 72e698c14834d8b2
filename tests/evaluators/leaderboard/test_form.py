"""The fast check of a form says what ``jsonschema`` says."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.evaluators.leaderboard.form import compiled
from sparse_tasks.schemas import schema

SUBMISSION = schema("submission-1.0")
PREDICTION = SUBMISSION["$defs"]["prediction"]
LINE: dict[str, Any] = {
    "id": "ruler_vt-1100-00000-0123456789ab",
    "task": "ruler_vt",
    "index": 0,
    "length": 1100,
    "text": "<answer>x</answer>",
    "finish_reason": "stop",
    "input_tokens": 1090,
    "output_tokens": None,
    "sparsity": {"prefill": 0.0, "decode": 0.5},
    "sparsity_spread": None,
    "kv_bytes_per_step": 1e6,
}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from([2**40, 2**63, -(2**70)])
    | st.floats(-1, 2).filter(lambda value: not value.is_integer())  # 1.0 is no integer here, and is one there
    | st.sampled_from(["", "stop", "prefill", "a" * 64, "0" * 64, "x\n", "\x1b", "\u202e", "q" * 600, "xz+base64"])
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["prefill", "decode", "name", "x", "a\n"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in inside for place in places(inner, (*path, key)))]


def spoilt(value: Any, place: tuple[Any, ...], other: Any, how: str) -> Any:
    """A value with another in some place, or something there left out or added."""
    if not place:
        return other
    value = copy.deepcopy(value)
    inside = value
    for key in place[:-1]:
        inside = inside[key]
    if how == "leave out":
        del inside[place[-1]]
    elif how == "add" and isinstance(inside, dict):
        inside["more"] = other
    elif how == "add":
        inside.append(other)
    else:
        inside[place[-1]] = other
    return value


def agree(value: Any, by: dict[str, Any]) -> None:
    """Both take the value, or both refuse it."""
    found = compiled(by)(value)
    assert (found is None) == jsonschema.Draft202012Validator(by).is_valid(value), (found, value)


HOW = st.sampled_from(["put", "leave out", "add"])


@settings(deadline=None)
@given(st.sampled_from(places(LINE)), VALUES, HOW)
def test_a_prediction_is_taken_and_refused_as_by_the_schema(place: Any, other: Any, how: str) -> None:
    agree(spoilt(LINE, place, other, how), PREDICTION)


@settings(deadline=None)
@given(st.data())
def test_a_submission_is_taken_and_refused_as_by_the_schema(document: dict[str, Any], data: st.DataObject) -> None:
    place = data.draw(st.sampled_from(places(document)))
    agree(spoilt(document, place, data.draw(VALUES), data.draw(HOW)), SUBMISSION)


@pytest.fixture(scope="module")
def document(honest: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(honest)
    return found


@pytest.mark.parametrize(
    ("by", "value", "where"),
    [
        ({"type": "integer"}, 1.0, ""),
        ({"type": "integer"}, True, ""),
        ({"type": "number", "minimum": 0}, True, ""),
        ({"type": ["string", "null"], "minLength": 1}, "", ""),
        ({"const": 1}, True, ""),
        ({"enum": [True, "x"]}, 1, ""),
        ({"items": {"properties": {"a": {"type": "null"}}}}, [{}, {"a": 1}], "[1].a"),
        ({"additionalProperties": {"type": "null"}}, {"a": 1}, ".a"),
        ({"oneOf": [{"type": "null"}, {"properties": {"a": {"type": "null"}}, "type": "object"}]}, {"a": 1}, ".a"),
        ({"oneOf": [{"type": "null"}, {"maxItems": 1}]}, None, ""),
    ],
)
def test_what_is_refused_is_named_with_its_place(by: dict[str, Any], value: Any, where: str) -> None:
    found = compiled(by)(value)
    assert found is not None
    assert found[0] == where
    assert found[1]


def test_a_keyword_that_is_not_known_is_no_silent_pass() -> None:
    with pytest.raises(ValueError, match="uniqueItems"):
        compiled({"properties": {"a": {"type": "array", "uniqueItems": True}}})


def test_everything_in_a_submission_is_bounded() -> None:
    def parts(part: Any) -> list[dict[str, Any]]:
        if isinstance(part, list):
            return [found for inner in part for found in parts(inner)]
        inner = [] if not isinstance(part, dict) else [found for value in part.values() for found in parts(value)]
        return [*inner, part] if isinstance(part, dict) and "type" in part else inner

    for part in parts(SUBMISSION):
        kinds = part["type"] if isinstance(part["type"], list) else [part["type"]]
        if "string" in kinds:
            assert "maxLength" in part or "{64}" in part["pattern"], part
        if "array" in kinds:
            assert "maxItems" in part, part
        if "object" in kinds:
            closed = part.get("additionalProperties") is False or "enum" in part.get("propertyNames", {})
            assert closed or "maxProperties" in part, part


@pytest.mark.parametrize(
    ("part", "name"), [("settings", "run-1.0"), ("result", "result-1.0"), ("comparison", "comparison-1.0")]
)
def test_parts_have_the_fields_of_what_they_are(part: str, name: str) -> None:
    def fields(of: Any) -> Any:
        """The names of all fields, and what is required."""
        if "oneOf" in of:
            return [fields(one) for one in of["oneOf"] if one["type"] != "null"]
        of_items = fields(of["items"]) if "items" in of else None
        named = {field: fields(inner) for field, inner in of.get("properties", {}).items()}
        return named, sorted(of.get("required", [])), of_items

    whole = copy.deepcopy(schema(name))
    if part == "settings":
        del whole["properties"]["command_line"]
        whole["required"].remove("command_line")
    submitted = SUBMISSION["properties"]["runs"]["items"]["properties"][part]
    found = fields(submitted)
    assert (found[0] if isinstance(found, list) else found) == fields(whole)


def test_lines_are_predictions_less_the_timings() -> None:
    timings = {"seconds_to_first_token", "seconds"}
    assert PREDICTION["properties"].keys() == schema("prediction-1.0")["properties"].keys() - timings
    assert set(PREDICTION["required"]) == set(schema("prediction-1.0")["required"]) - timings
