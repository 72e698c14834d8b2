"""Guards what a server's requests may choose and what its answers say, in every form that answers have."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.vllm.arguments import CONTEXT, MARK, engine_arguments
from sparse_tasks.attention.vllm.measured import FIELD, Card, Measured, mean, over_ranks

pytest.importorskip("prometheus_client", reason="comes with vLLM")
exceptions = pytest.importorskip("fastapi", reason="comes with vLLM")

from sparse_tasks.attention.vllm import middleware  # noqa: E402 - needs the two
from sparse_tasks.attention.vllm.middleware import KV_READ, SPARSITY, SparsityMiddleware  # noqa: E402

Json = dict[str, Any]
HEADERS = [(b"content-type", b"application/json")]
COUNTS: Json = {
    "prefill": {"densities": [1.0, 1.0]},
    "decode": {"densities": [0.25, 0.75], "kv_bytes": 100.0, "steps": 3},
}
MEASURED: Json = {
    "attention": {"method": "quest", "sparsity": 0.9, "arguments": {}},
    "sparsity": {"prefill": 0.0, "decode": 0.5},
    "sparsity_spread": {"prefill": 0.0, "decode": 0.25},
    "kv_bytes_per_step": 100.0,
}


class Engine:
    """vLLM's client of an engine, with as many ranks as there are counts."""

    def __init__(self, ranks: list[list[Json]] | Exception | None = None, **config: Any) -> None:
        self.ranks = [[COUNTS]] if ranks is None else ranks
        self.marks: list[str] = []
        settings = {"attention": "quest", "sparsity": 0.9, "choices": ["quest", "snapkv"]} | config
        self.vllm_config = SimpleNamespace(
            additional_config=engine_arguments(**settings)["additional_config"],
            model_config=SimpleNamespace(
                dtype="torch.float32",
                hf_config=SimpleNamespace(to_json_string=lambda use_diff: '{"hidden_size": 8}'),
                hf_text_config=SimpleNamespace(num_hidden_layers=4),
            ),
            parallel_config=SimpleNamespace(tensor_parallel_size=2),
        )

    async def collective_rpc(self, method: str, args: tuple[str, ...] = ()) -> Any:
        if method == "sparse_tasks_layers":
            return [3, 3]
        if method == "sparse_tasks_tested":
            return [{"difference": 1e-7}, {"difference": 3e-7}]
        assert method == "sparse_tasks_measure"
        self.marks += args
        if isinstance(self.ranks, Exception):
            raise self.ranks
        return self.ranks


class Server:
    """vLLM's application: it keeps what it is sent, and answers with these parts of a body."""

    def __init__(self, *parts: bytes, status: int = 200, kind: bytes = b"application/json", engine: Any = None) -> None:
        self.parts, self.status, self.kind = parts, status, kind
        self.engine = engine or Engine()
        self.got: Json | None = None
        self.raw = b""
        self.sent: list[Json] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        more = scope["method"] == "POST"
        while more:
            message = await receive()
            assert message["type"] == "http.request"
            self.raw += message["body"]
            more = message.get("more_body", False)
        length = str(sum(map(len, self.parts))).encode()
        headers = [(b"content-type", self.kind), (b"Content-Length", length), (b"x", b"y")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for number, part in enumerate(self.parts, start=1):
            await send({"type": "http.response.body", "body": part, "more_body": number < len(self.parts)})

    def ask(
        self, body: bytes | Json | None, path: str = "/v1/completions", *, cuts: int = 1, headers: Any = HEADERS
    ) -> bytes:
        """The answer's body; ``cuts`` messages carry the request."""
        whole = body if isinstance(body, bytes) else json.dumps(body).encode()
        size = -(-len(whole) // cuts) or 1
        pieces = [whole[at : at + size] for at in range(0, len(whole), size)] or [b""]
        coming = [
            {"type": "http.request", "body": piece, "more_body": n < len(pieces)} for n, piece in enumerate(pieces, 1)
        ]

        async def receive() -> Json:
            return coming.pop(0) if coming else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            self.sent.append(dict(message))

        scope = {
            "type": "http",
            "method": "GET" if body is None else "POST",
            "path": path,
            "headers": headers,
            "app": SimpleNamespace(state=SimpleNamespace(engine_client=self.engine)),
        }
        asyncio.run(SparsityMiddleware(self)(scope, receive, send))  # type: ignore[arg-type]
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def extra(self) -> Json:
        """``vllm_xargs`` as they came, without the mark."""
        xargs: Json = json.loads(self.raw)["vllm_xargs"]
        return {key: value for key, value in xargs.items() if key != MARK}


ANSWER = b'{"id":"cmpl-1","choices":[{"text":"\xc3\xa9 \\n"}],"usage":{"total_tokens":3}}'
EVENT = b'data: {"id":"cmpl-1","object":"text_completion","created":7,"model":"m","choices":[{"text":"a"}]}\n\n'
USAGE = b'data: {"id":"cmpl-1","object":"text_completion","choices":[],"usage":{"total_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"


# --- what requests choose -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "reaches"),
    [
        ({}, {}),
        ({"attention": None, "sparsity": None}, {}),
        ({"attention": "quest"}, {}),
        ({"attention": "quest", "sparsity": 0.9}, {}),
        ({"sparsity": 0.5}, {"attention": "quest", "sparsity": 0.5}),
        ({"attention": "snapkv"}, {"attention": "snapkv", "sparsity": 0.9}),
        ({"attention": "dense"}, {"attention": "dense", "sparsity": 0.0}),
        ({"vllm_xargs": {"attention": "snapkv", "sparsity": 0.25, "other": "x"}},
         {"attention": "snapkv", "sparsity": 0.25, "other": "x"}),
        ({"vllm_xargs": {"sparsity": 0.25, MARK: "theirs"}, "sparsity": 0.7}, {"attention": "quest", "sparsity": 0.7}),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_request_chooses_reaches_the_worker(chosen: Json, reaches: Json) -> None:
    server = Server(ANSWER)
    server.ask({"prompt": [1, 2], "model": "m"} | chosen, cuts=3)
    got = json.loads(server.raw)
    assert server.extra == reaches
    assert not {"attention", "sparsity"} & set(got)
    assert (got["prompt"], got["model"]) == ([1, 2], "m")
    assert got["vllm_xargs"][MARK] == server.engine.marks[0] != "theirs"


def test_what_is_chosen_shares_no_cache_with_anything_else() -> None:
    salts = []
    for chosen in ({}, {"sparsity": 0.5}, {"sparsity": 0.5, "cache_salt": "mine"}, {"attention": "dense"}):
        server = Server(ANSWER)
        server.ask({"prompt": "a"} | chosen)
        salts.append(json.loads(server.raw).get("cache_salt"))
    assert salts[0] is None
    assert len(set(salts)) == 4
    assert all(salt.isalnum() and len(salt) <= 128 for salt in salts[1:])  # as vLLM takes them


@pytest.mark.parametrize(
    ("body", "path", "words"),
    [
        ({"attention": "h2o"}, "/v1/completions", "attention: 'h2o' is not one of the methods of this server; choose"),
        ({"sparsity": 2}, "/v1/chat/completions", "sparsity: 2 has to be a number from 0"),
        ({"vllm_xargs": {"attention": "h2o"}}, "/v1/completions", "attention: 'h2o' is not"),
        ({"attention": {"a": 1}}, "/v1/completions", "is not one of the methods of this server"),
        ({"attention": "snapkv"}, "/v1/messages", "request: 'attention' works only at /v1/completions and"),
        ({"vllm_xargs": {"sparsity": 0.5}}, "/v1/responses", "request: 'sparsity' works only at"),
        ({"sampling_params": {"extra_args": {"attention": "h2o"}}}, "/inference/v1/generate", "'attention' works only"),
    ],
    ids=str,
)
def test_what_cannot_be_chosen_is_refused_before_it_is_read(body: Json, path: str, words: str) -> None:
    server = Server(ANSWER)
    with pytest.raises(exceptions.HTTPException) as caught:
        server.ask({"prompt": "a"} | body, path)
    assert caught.value.status_code == 400
    assert words in caught.value.detail
    assert server.raw == b""


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses"])
def test_a_server_that_frees_blocks_refuses_contexts(path: str) -> None:
    """In the engine such a request would be an error of all."""
    server = Server(ANSWER, engine=Engine(attention="window_evict", choices=[], free_blocks=True))
    for body in ({"vllm_xargs": {CONTEXT: 3}}, {"sampling_params": {"extra_args": {CONTEXT: 3}}}):
        with pytest.raises(
            exceptions.HTTPException, match=f"{CONTEXT}: 3 cannot be combined with free_blocks"
        ) as caught:
            server.ask({"prompt": "a"} | body, path)
        assert caught.value.status_code == 400
    assert server.raw == b""


def test_a_server_without_choices_refuses_all_but_those_that_choose_nothing() -> None:
    server = Server(ANSWER, engine=Engine(choices=[]))
    with pytest.raises(exceptions.HTTPException, match="cannot be chosen"):
        server.ask({"sparsity": 0.5})
    assert json.loads(server.ask({"prompt": "a"}))[FIELD] == MEASURED


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9), lambda v: st.lists(v, max_size=3)
)


@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=5))
def test_the_rest_of_a_request_stays_as_it_is(body: Json) -> None:
    body = {key: value for key, value in body.items() if key not in ("attention", "sparsity", "vllm_xargs")}
    server = Server(ANSWER)
    server.ask(body)
    got = json.loads(server.raw)
    assert {key: value for key, value in got.items() if key != "vllm_xargs"} == body


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"a"', b"\xff", b'{"prompt": NaN}'])
def test_what_is_no_request_is_left_to_vllm(body: bytes) -> None:
    server = Server(b'{"error": {}}', status=400)
    assert server.ask(body) == b'{"error": {}}'
    assert server.raw == body
    assert server.engine.marks == []


def test_what_is_not_json_is_none_of_our_business() -> None:
    server = Server(ANSWER)
    assert server.ask(b'{"attention": "h2o"}', headers=[(b"content-type", b"multipart/form-data")]) == ANSWER
    assert server.raw == b'{"attention": "h2o"}'


# --- what answers say -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/root/v1/completions"])
@pytest.mark.parametrize("parts", [[ANSWER], [ANSWER[:9], ANSWER[9:30], ANSWER[30:]]])
def test_an_answer_says_what_was_left_out(path: str, parts: list[bytes]) -> None:
    server = Server(*parts)
    body = server.ask({"prompt": "a"}, path)
    assert json.loads(body) == json.loads(ANSWER) | {FIELD: MEASURED}
    start = server.sent[0]
    lengths = [value for name, value in start["headers"] if name.lower() == b"content-length"]
    assert lengths == [str(len(body)).encode()]
    assert (b"x", b"y") in start["headers"]
    assert msgspec.convert(json.loads(body)[FIELD], Measured).attention == Attention.parse("quest", sparsity=0.9)


def streamed(*parts: bytes, usage: bool = True, **options: Any) -> tuple[Server, bytes]:
    server = Server(*parts, kind=b"text/event-stream; charset=utf-8", **options)
    return server, server.ask({"prompt": "a", "stream": True, "stream_options": {"include_usage": usage}})


@pytest.mark.parametrize("parts", [[EVENT, USAGE, DONE], [EVENT, USAGE + DONE], [EVENT + USAGE + DONE]])
def test_a_stream_says_it_before_its_end(parts: list[bytes]) -> None:
    _, body = streamed(*parts)
    *others, ours, end = body.strip().split(b"\n\n")
    assert b"\n\n".join([*others, end]) + b"\n\n" == EVENT + USAGE + DONE
    assert json.loads(ours.removeprefix(b"data: ")) == {
        "id": "cmpl-1", "object": "text_completion", "created": 7, "model": "m", "choices": [], FIELD: MEASURED,
    }  # fmt: skip


def test_events_go_out_as_they_come() -> None:
    server, _ = streamed(EVENT, EVENT, USAGE, DONE)
    assert [message["body"] for message in server.sent[1:4]] == [EVENT, EVENT, USAGE]


def test_a_stream_without_usage_is_measured_and_stays_as_it_is() -> None:
    server, body = streamed(EVENT, DONE, usage=False)
    assert body == EVENT + DONE
    assert len(server.engine.marks) == 1


def test_an_answer_that_quotes_the_end_is_not_at_its_end() -> None:
    quoting = b'data: {"choices":[{"text":"\\ndata: [DONE]\\n\\n"}]}\n\n'
    server, body = streamed(quoting, quoting, DONE)
    assert body.count(FIELD.encode()) == 1
    assert body.endswith(b"\n\n" + DONE)
    assert len(server.engine.marks) == 1


def test_what_was_not_measured_is_not_said() -> None:
    for ranks in ([[], []], [[{}]], RuntimeError("the engine is dead")):
        assert Server(ANSWER, engine=Engine(ranks)).ask({"prompt": "a"}) == ANSWER
        assert streamed(EVENT, USAGE, DONE, engine=Engine(ranks))[1] == EVENT + USAGE + DONE


@pytest.mark.parametrize("stream", [False, True])
def test_counts_of_a_request_whose_client_left_are_dropped_and_not_reported(stream: bool) -> None:
    """The answer is then "null", or a stream that breaks off."""
    before = reported(SPARSITY, method="quest", phase="decode")()
    if stream:
        server, body = streamed(EVENT)
        assert body == EVENT
    else:
        server = Server(b"null")
        assert server.ask({"prompt": "a"}) == b"null"
    assert server.engine.marks == [json.loads(server.raw)["vllm_xargs"][MARK]]
    assert reported(SPARSITY, method="quest", phase="decode")() == before


def test_counts_are_dropped_where_the_application_fails() -> None:
    class Failing(Server):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await receive()
            raise ConnectionResetError

    server = Failing(ANSWER)
    with pytest.raises(ConnectionResetError):
        server.ask({"prompt": "a"})
    assert len(server.engine.marks) == 1


@pytest.mark.parametrize("status", [400, 404, 500])
def test_an_error_stays_as_it_is(status: int) -> None:
    server = Server(b'{"error":{}}', status=status)
    assert server.ask({"prompt": "a"}) == b'{"error":{}}'
    assert server.engine.marks == []


def test_other_endpoints_stay_as_they_are() -> None:
    server = Server(ANSWER)
    assert server.ask({"prompt": "a"}, "/tokenize") == ANSWER
    assert json.loads(server.raw) == {"prompt": "a"}
    assert Server(ANSWER).ask(None, "/health") == ANSWER


def test_the_list_of_models_says_how_they_are_served() -> None:
    server = Server(b'{"object": "list", "data": [{"id": "m"}, {"id": "n"}]}')
    listed = json.loads(server.ask(None, "/v1/models"))
    assert [entry["id"] for entry in listed["data"]] == ["m", "n"]
    cards = [msgspec.convert(entry[FIELD], Card) for entry in listed["data"]]
    assert cards[0] == cards[1]
    assert cards[0].attention == Attention.parse("quest", sparsity=0.9)
    assert [choice.label for choice in cards[0].choices] == ["quest-0.9", "snapkv-0.9"]
    assert (cards[0].dtype, cards[0].tensor_parallel_size, cards[0].config) == ("float32", 2, {"hidden_size": 8})
    assert (cards[0].layers, cards[0].sparse_layers, cards[0].self_test) == (4, 3, {"difference": 3e-7})


def test_measurements_are_of_all_ranks_and_a_mean_of_sequences() -> None:
    other: Json = {"prefill": {"densities": [0.5]}, "decode": {"densities": [1.0, 1.0], "kv_bytes": 60.0, "steps": 3}}
    one = over_ranks([COUNTS, other])
    assert one["sparsity"] == {"prefill": pytest.approx(0.5 / 3), "decode": 0.25}
    assert one["kv_bytes_per_step"] == 160
    short = over_ranks([{"prefill": {"densities": [0.0]}}])  # ended with its first token
    assert mean(Attention.DENSE, [one, short]).sparsity == {"prefill": pytest.approx((0.5 / 3 + 1) / 2), "decode": 0.25}
    assert mean(Attention.DENSE, [one, short]).kv_bytes_per_step == 160
    assert mean(Attention.DENSE, [short]).kv_bytes_per_step is None
    assert over_ranks([None]) == {"sparsity": None, "sparsity_spread": None, "kv_bytes_per_step": None}


# --- what Prometheus is told ----------------------------------------------------------------------------------


def reported(metric: Any, **labels: str) -> Callable[[], Mapping[str, float]]:
    def values() -> Mapping[str, float]:
        samples = [sample for family in metric.collect() for sample in family.samples]
        return {
            sample.name + (f"<={sample.labels['le']}" if "le" in sample.labels else ""): sample.value
            for sample in samples
            if labels.items() <= sample.labels.items()
        }

    return values


def test_prometheus_gets_every_sequence_by_method_and_phase() -> None:
    decode, read = reported(SPARSITY, method="quest", phase="decode"), reported(KV_READ, method="quest")
    before, bytes_before = decode(), read()
    Server(ANSWER, engine=Engine([[COUNTS, COUNTS]])).ask({"prompt": "a"})
    streamed(EVENT, DONE, usage=False)
    new = {name: value - before.get(name, 0) for name, value in decode().items()}
    assert new["sparse_tasks_sparsity_count"] == 3
    assert new["sparse_tasks_sparsity_sum"] == pytest.approx(1.5)
    assert (new["sparse_tasks_sparsity_bucket<=0.4"], new["sparse_tasks_sparsity_bucket<=0.5"]) == (0, 3)
    name = "sparse_tasks_kv_read_bytes_total"
    assert read()[name] - bytes_before.get(name, 0) == 3 * 3 * 100
    assert middleware.SPARSITY is SPARSITY
