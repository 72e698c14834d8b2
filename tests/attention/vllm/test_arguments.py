"""Guards how sparse attention is asked of vLLM: what goes in comes out, and nonsense is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sparse_tasks.attention.attention import DENSE, Attention
from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.vllm.arguments import (
    BACKEND,
    KEY,
    MIDDLEWARE,
    WORKER,
    Offer,
    engine_arguments,
    parse_offer,
    parse_self_test,
    serve_arguments,
)
from sparse_tasks.core.errors import UsageError
from tests.methods import SERVED

ASKED: list[dict[str, Any]] = [
    {"attention": DENSE},
    *({"attention": name, "sparsity": 0.7} for name in SERVED),
    *({"attention": name} for name in SERVED),
    {"attention": "vertical_slash+quest", "sparsity": 0.9, "arguments": {"quest.page": 8, "vertical_slash.window": 99}},
    {"attention": "quest", "arguments": {"token_budget": 512}},
    {"attention": "quest", "arguments": {"quest.token_budget": "512"}},
    {"attention": "streaming_llm", "arguments": {"window": 100}},
    {"attention": "quest", "sparsity": 0},
]


def asked(given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return given["attention"], {name: value for name, value in given.items() if name != "attention"}


@pytest.mark.parametrize("name", sorted({*METHODS.names()} - {*SERVED}))
def test_methods_that_vllm_does_not_run_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"^attention: '{name}' has the model read each prompt a second time") as error:
        engine_arguments("quest", sparsity=0.5, choices=[name])
    assert "--engine transformers" in error.value.remedy


@pytest.mark.parametrize("given", ASKED, ids=str)
def test_what_is_asked_in_python_is_what_runs(given: dict[str, Any]) -> None:
    name, options = asked(given)
    arguments = engine_arguments(name, **options)
    assert arguments["attention_config"] == {"backend": BACKEND}
    assert arguments["worker_cls"] == WORKER
    assert arguments["compilation_config"] == {"cudagraph_mode": "PIECEWISE"}
    sent = json.loads(json.dumps(arguments["additional_config"]))  # vLLM makes a hash of it, from JSON
    assert parse_offer(sent) == parse_offer(arguments["additional_config"]) == Offer(Attention.parse(name, **options))


@pytest.mark.parametrize("given", ASKED, ids=str)
def test_what_is_asked_on_the_command_line_is_the_same(given: dict[str, Any]) -> None:
    name, options = asked(given)
    words, arguments = serve_arguments(name, **options), engine_arguments(name, **options)
    assert all(isinstance(word, str) for word in words)
    flags = dict(zip(words[:10:2], words[1:10:2], strict=True))
    assert flags["--attention-backend"] == arguments["attention_config"]["backend"]
    assert flags["--worker-cls"] == arguments["worker_cls"]
    assert json.loads(flags["--compilation-config"]) == arguments["compilation_config"]
    assert parse_offer(json.loads(flags["--additional-config"])).attention == Attention.parse(name, **options)
    rest = [] if arguments.get("enable_prefix_caching", True) else ["--no-enable-prefix-caching"]
    assert flags["--middleware"] == MIDDLEWARE
    assert words[10:] == rest


@pytest.mark.parametrize("given", ASKED, ids=str)
def test_prefix_caching_is_off_exactly_where_a_method_forbids_it(given: dict[str, Any]) -> None:
    name, options = asked(given)
    forbidden = any(method.unshared for method in Attention.parse(name, **options).methods)
    assert engine_arguments(name, **options).get("enable_prefix_caching") is (False if forbidden else None)


@pytest.mark.parametrize(
    ("name", "options", "forbidden"),
    [
        (DENSE, {}, False),
        ("quest", {"sparsity": 0.9}, False),
        ("knorm", {"sparsity": 0.9}, False),
        ("streaming_llm", {"arguments": {"window": 512}}, False),
        ("streaming_llm", {"sparsity": 0.9}, True),
        ("tri_shape", {"arguments": {"window": 512}}, True),
        ("vertical_slash", {"sparsity": 0.9}, True),
        ("snapkv", {"sparsity": 0.9}, True),
        ("vertical_slash+quest", {"sparsity": 0.9}, True),
        ("streaming_llm+snapkv", {}, True),
        ("streaming_llm+quest", {}, False),
    ],
)
def test_methods_that_forbid_prefix_caching(name: str, options: dict[str, Any], forbidden: bool) -> None:
    assert ("enable_prefix_caching" in engine_arguments(name, **options)) == forbidden


@pytest.mark.parametrize("wanted", [True, False])
def test_engines_test_themselves_unless_that_is_turned_off(wanted: bool) -> None:
    words = serve_arguments("quest", self_test=wanted)
    config = engine_arguments("quest", self_test=wanted)["additional_config"]
    assert json.loads(words[words.index("--additional-config") + 1]) == config
    assert parse_self_test(config) is wanted
    assert parse_offer(config) == Offer(Attention.parse("quest"))
    assert parse_self_test(engine_arguments("quest")["additional_config"]) is True


def test_a_wish_for_the_self_test_is_yes_or_no() -> None:
    with pytest.raises(UsageError, match=r"additional_config.sparse_tasks.self_test: 'no' has to be true or false"):
        parse_self_test({KEY: {"attention": "quest", "self_test": "no"}})


def test_the_worker_is_where_it_is_said_to_be() -> None:
    """By name, for vLLM imports it in its own processes; here it may be missing."""
    from importlib.util import find_spec

    module, _, name = WORKER.rpartition(".")
    found = find_spec(module)
    assert found is not None
    assert found.origin is not None
    with open(found.origin, encoding="utf-8") as file:
        assert f"class {name}(" in file.read()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"attention": "qest"}, "attention"),
        ({"attention": "quest", "sparsity": 1.5}, "sparsity"),
        ({"attention": DENSE, "sparsity": 0.5}, "sparsity"),
        ({"attention": "quest", "arguments": {"pages": 8}}, "quest.pages"),
        ({"attention": "quest", "arguments": {"snapkv.window": 8}}, "argument"),
        ({"attention": "quest+snapkv"}, "attention"),
    ],
)
def test_what_no_method_takes_is_refused_before_vllm_starts(options: dict[str, Any], field: str) -> None:
    name, rest = asked(options)
    for make in (engine_arguments, serve_arguments):
        with pytest.raises(UsageError) as error:
            make(name, **rest)
        assert error.value.field == field
    with pytest.raises(UsageError) as error:
        parse_offer({KEY: options})
    assert error.value.field == field


@pytest.mark.parametrize("config", [None, {}, {"other": 1}, "quest", {KEY: None}, {KEY: "quest"}, {KEY: {}}, {KEY: []},
                                    {KEY: {"sparsity": 0.5}}], ids=str)  # fmt: skip
def test_a_configuration_without_an_attention_is_refused_with_an_example(config: object) -> None:
    with pytest.raises(UsageError, match=r"has to name an attention, as in \{\"sparse_tasks\"") as error:
        parse_offer(config)
    assert (error.value.field, error.value.value) == ("additional_config", config)
    example = json.loads(error.value.remedy.partition(" as in ")[2])
    assert parse_offer(example).attention == Attention.parse("quest", sparsity=0.9)


@pytest.mark.parametrize(
    ("part", "field", "value", "words"),
    [
        (
            {"sparsiti": 0.5},
            "",
            "sparsiti",
            "is unknown; choose from attention, sparsity, arguments, choices, free_blocks, self_test",
        ),
        ({"attention": None}, ".attention", None, "has to be a name, 'dense' or of a method"),
        ({"attention": ["quest"]}, ".attention", ["quest"], "has to be a name"),
        ({"sparsity": "0.5"}, ".sparsity", "0.5", "has to be a number in"),
        ({"sparsity": True}, ".sparsity", True, "has to be a number in"),
        ({"sparsity": [0.5]}, ".sparsity", [0.5], "has to be a number in"),
        ({"arguments": "page=8"}, ".arguments", "page=8", "has to be a table of METHOD.PARAMETER"),
        ({"choices": "snapkv"}, ".choices", "snapkv", "has to be a list of names"),
        ({"choices": [1]}, ".choices", [1], "has to be a list of names"),
        ({"arguments": [8]}, ".arguments", [8], "has to be a table of METHOD.PARAMETER"),
    ],
    ids=str,
)
def test_a_part_of_the_configuration_that_is_wrong_is_named(
    part: dict[str, Any], field: str, value: object, words: str
) -> None:
    with pytest.raises(UsageError, match=words) as error:
        parse_offer({KEY: {"attention": "quest"} | part})
    assert (error.value.field, error.value.value) == (f"additional_config.{KEY}{field}", value)


def test_the_rest_of_the_configuration_is_somebody_elses() -> None:
    assert (
        parse_offer({KEY: {"attention": DENSE, "arguments": None, "sparsity": None}, "other": [1]}).attention
        == Attention.DENSE
    )


def test_what_is_asked_is_not_held_on_to() -> None:
    arguments = {"quest.page": 8}
    given = engine_arguments("quest", arguments=arguments)
    arguments["quest.page"] = 4
    assert given["additional_config"][KEY]["arguments"] == {"quest.page": 8}


OFFER = parse_offer({KEY: {"attention": "quest", "sparsity": 0.9, "arguments": {"quest.page": 8},
                           "choices": ["snapkv", "vertical_slash+quest"]}})  # fmt: skip


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, ("quest", 0.9)),
        ({"sparsity": 0.5}, ("quest", 0.5)),
        ({"sparsity": 0}, ("quest", 0.0)),
        ({"attention": "snapkv"}, ("snapkv", 0.9)),
        ({"attention": "vertical_slash+quest", "sparsity": 0.25}, ("vertical_slash+quest", 0.25)),
        ({"attention": DENSE}, (DENSE, 0.0)),
        ({"attention": DENSE, "sparsity": 0}, (DENSE, 0.0)),
    ],
)
def test_a_request_chooses_within_what_the_engine_was_started_with(
    chosen: dict[str, Any], expected: tuple[str, float]
) -> None:
    found = OFFER.choose(**chosen)
    assert (found.method, found.sparsity) == expected
    assert found.arguments == ({"quest.page": 8} if "quest" in found.method else {})


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"attention": "h2o"}, "attention: 'h2o' is not one of the methods of this server; choose from dense, quest, "),
        ({"attention": "vertical_slash"}, "choose from dense, quest, snapkv, vertical_slash.quest"),
        ({"attention": ["quest"]}, "is not one of the methods of this server"),
        ({"attention": {"quest": 1}, "sparsity": 0.5}, "is not one of the methods of this server"),
        ({"attention": True}, "attention: True is not"),
        ({"sparsity": 1}, "sparsity: 1 has to be a number from 0 up to"),
        ({"sparsity": True}, "has to be a number"),
        ({"sparsity": "0.5"}, "has to be a number"),
        ({"sparsity": float("nan")}, "has to be a number"),
        ({"attention": DENSE, "sparsity": 0.5}, "sparsity: 0.5 needs a method"),
    ],
)
def test_anything_else_is_refused_with_what_would_go(chosen: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        OFFER.choose(**chosen)


@pytest.mark.parametrize("chosen", [{"attention": "quest"}, {"sparsity": 0.9}, {"attention": DENSE}])
def test_where_requests_have_no_choice_none_is_taken(chosen: dict[str, Any]) -> None:
    offer = Offer(Attention.parse("quest", sparsity=0.9))
    assert offer.choose() == offer.attention
    with pytest.raises(UsageError, match="cannot be chosen by a request here; start the server with sparse-tasks"):
        offer.choose(**chosen)


def test_a_budget_of_its_own_leaves_a_method_no_sparsity_to_choose() -> None:
    offer = parse_offer({KEY: {"attention": "quest", "arguments": {"token_budget": 512}, "choices": ["quest"]}})
    with pytest.raises(UsageError, match="is also set by sparsity"):
        offer.choose(sparsity=0.5)


def test_prefix_caching_is_off_where_a_request_may_choose_what_forbids_it() -> None:
    assert "enable_prefix_caching" not in engine_arguments("quest", sparsity=0.9, choices=["quest"])
    assert engine_arguments("quest", sparsity=0.9, choices=["snapkv"])["enable_prefix_caching"] is False


@pytest.mark.parametrize(
    ("name", "forbidden"),
    [("snapkv", False), ("knorm", False), ("quest", False), ("h2o", True), ("vertical_slash+snapkv", True)],
)
def test_sessions_share_prefixes_where_a_method_chooses_once(name: str, forbidden: bool) -> None:
    given = engine_arguments(name, sparsity=0.5, sessions=True)
    assert ("enable_prefix_caching" in given) == forbidden
    assert parse_offer(given["additional_config"]).sessions
    assert not parse_offer(engine_arguments(name, sparsity=0.5)["additional_config"]).sessions
