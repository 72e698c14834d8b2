"""Middleware of vLLM's API server (``--middleware``): requests choose attention, and answers say what it left out.

It changes the messages of ASGI and nothing of vLLM's. What a request chooses goes to the worker as ``vllm_xargs``, and
its counts come back by ``collective_rpc``. A body is read when vLLM reads it, that is, after a key was checked.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import partial
from hashlib import sha256
from typing import Any, Final, TypeAlias
from uuid import uuid4

import msgspec
from msgspec import Raw
from prometheus_client import Counter, Histogram

from sparse_tasks import __version__
from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.vllm.arguments import MARK, Offer, parse_offer
from sparse_tasks.attention.vllm.measured import FIELD, Card, Measured, mean, over_ranks, worst
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.records import JsonObject, to_builtins

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

_LOG: Final = logging.getLogger("vllm.sparse_tasks")
_PATHS: Final = ("/v1/completions", "/v1/chat/completions")
_KEYS: Final = ("attention", "sparsity")
_DONE: Final = b"data: [DONE]"
_ENVELOPE: Final = ("id", "object", "created", "model")

SPARSITY: Final = Histogram(
    "sparse_tasks_sparsity",
    "Measured share of query-key interactions that a request did not compute, by method and phase",
    ("method", "phase"),
    buckets=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99, 1.0),
)
KV_READ: Final = Counter(
    "sparse_tasks_kv_read_bytes", "Bytes of keys and values that decoding read, all layers together", ("method",)
)


class SparsityMiddleware:
    """ASGI middleware around vLLM's application.

    Completions take ``attention`` and ``sparsity``, as fields of the request or of its ``vllm_xargs``, within what the
    server was started with; anything else is refused with status 400. Their answers have a field ``sparse_tasks`` (see
    ``Measured``), streams an event with it where the usage was asked for. The list of models has it too (see ``Card``).

    Args:
        app: The application.
    """

    def __init__(self, app: Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]) -> None:
        self._app = app
        self._card: JsonObject | None = None  # asked once, for a step may take long

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        exchange: _Exchange | None = None
        if scope["type"] == "http":
            engine, path = scope["app"].state.engine_client, scope["path"]
            if scope["method"] == "GET" and path.endswith("/v1/models"):
                send = _Models(partial(self._card_of, engine), send).send
            elif scope["method"] == "POST" and _is_json(scope["headers"]):
                exchange = _Exchange(engine, path.endswith(_PATHS), receive, send)
                receive, send = exchange.receive, exchange.send
        try:
            await self._app(scope, receive, send)
        finally:
            if exchange is not None:
                await exchange.end()

    async def _card_of(self, engine: Any) -> JsonObject:
        if self._card is None:
            self._card = to_builtins(await _card(engine))
        return self._card


def _is_json(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    kind = next((value for name, value in headers if name.lower() == b"content-type"), b"")
    return kind.lower().startswith(b"application/json")


class _Whole:
    """An answer of JSON that goes out whole, after a change."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._body = bytearray()

    async def changed(self, body: bytes) -> bytes:
        """The answer, after the change."""
        raise NotImplementedError

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] == 200 and _is_json(message["headers"]):
                self._start = message
                return
        elif self._start is not None:
            self._body += message.get("body", b"")
            if message.get("more_body"):
                return
            body, start = await self.changed(bytes(self._body)), self._start
            headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
            self._start = None
            await self._send({**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
            message = {**message, "body": body}
        await self._send(message)


class _Models(_Whole):
    """The list of models, each of which says how it is served."""

    def __init__(self, card: Callable[[], Awaitable[JsonObject]], send: Send) -> None:
        super().__init__(send)
        self._card = card

    async def changed(self, body: bytes) -> bytes:
        answer, card = json.loads(body), await self._card()
        return msgspec.json.encode({**answer, "data": [entry | {FIELD: card} for entry in answer["data"]]})


class _Exchange(_Whole):
    """A request and its answer.

    Args:
        engine: vLLM's ``EngineClient``.
        answers: Whether it is for an endpoint where requests choose, and whose answers say what was left out.
        receive: As in ASGI.
        send: As in ASGI.
    """

    def __init__(self, engine: Any, answers: bool, receive: Receive, send: Send) -> None:
        super().__init__(send)
        self._engine, self._answers, self._receive = engine, answers, receive
        self._mark = uuid4().hex
        self._attention: Attention | None = None  # of a request that was read, until its counts are taken
        self._reports_usage = False  # whether a stream ends with the usage
        self._first: JsonObject | None = None  # of a stream's events
        self._read = False

    async def receive(self) -> Message:
        if self._read:
            return await self._receive()
        self._read, body = True, bytearray()
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            body += message.get("body", b"")
            if not message.get("more_body"):
                return {**message, "body": self._with_choice(bytes(body))}

    def _with_choice(self, body: bytes) -> bytes:
        try:
            given = msgspec.json.decode(body, type=dict[str, Raw])
        except msgspec.MsgspecError:
            return body  # vLLM says what is wrong
        offer = parse_offer(self._engine.vllm_config.additional_config)
        try:
            for table in (_table(given, "vllm_xargs"), _table(given, "sampling_params").get("extra_args")):
                offer.check_context(table if isinstance(table, dict) else {})
            if not self._answers:
                _check_unchosen(given)
                return body
            return msgspec.json.encode(self._chosen(given, offer))
        except UsageError as error:
            from fastapi import HTTPException

            # FastAPI lets it pass as it reads the body, and vLLM answers in its own form.
            raise HTTPException(400, str(error)) from error

    def _chosen(self, given: dict[str, Raw], offer: Offer) -> dict[str, Any]:
        """The request as vLLM takes it."""
        extra = _table(given, "vllm_xargs")
        extra |= {key: value for key in _KEYS if (value := _plain(given.pop(key, None))) is not None}
        attention = offer.choose(*(extra.pop(key, None) for key in _KEYS))
        request: dict[str, Any] = dict(given)
        if attention != offer.attention:
            extra["attention"] = attention.method
            if attention.sparsity is not None:
                extra["sparsity"] = attention.sparsity
            # What a method wrote is not for others to go on with, even from the cache.
            salt = _plain(given.get("cache_salt"))
            if salt is None or isinstance(salt, str):
                named = f"{attention.method} {attention.sparsity!r} {salt or ''}"
                request["cache_salt"] = sha256(named.encode()).hexdigest()
        self._attention = attention
        self._reports_usage = _table(given, "stream_options").get("include_usage") is True
        return request | {"vllm_xargs": extra | {MARK: self._mark}}

    async def end(self) -> None:
        """Drop the counts of a request whose client left before its answer was whole."""
        if self._attention is not None:
            await self._take()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            self._attention = None  # refused, so that it has no counts
        if self._attention is None:
            await self._send(message)
        elif self._start is None and message["type"] == "http.response.body":
            await self._send({**message, "body": await self._with_event(message.get("body", b""))})
        else:
            await super().send(message)

    async def changed(self, body: bytes) -> bytes:
        try:
            answer: dict[str, Any] = dict(msgspec.json.decode(body, type=dict[str, Raw]))
        except msgspec.MsgspecError:
            return body  # "null", where the client has left
        measured = await self._measured()
        return body if measured is None else msgspec.json.encode(answer | {FIELD: measured})

    async def _with_event(self, body: bytes) -> bytes:
        """A part of a stream; before its end stands an event of ours."""
        if self._first is None and body.startswith(b"data: {"):
            self._first = json.loads(body[len(b"data: ") :].split(b"\n", 1)[0])
        # A line of its own, which no text in an event is.
        place = 0 if body.startswith(_DONE) else body.find(b"\n" + _DONE) + 1
        if not body.startswith(_DONE) and place == 0:
            return body
        measured = await self._measured()
        if measured is None or not self._reports_usage:
            return body
        event = {key: value for key, value in (self._first or {}).items() if key in _ENVELOPE} | {"choices": []}
        encoded = msgspec.json.encode(event | {FIELD: measured})
        return body[:place] + b"data: " + encoded + b"\n\n" + body[place:]

    async def _measured(self) -> Measured | None:
        """Measurements of the request; None where there are none."""
        attention = self._attention
        if attention is None:
            return None
        ranks = await self._take()
        sequences = [list(parts) for parts in zip(*ranks, strict=True)]
        measured = [over_ranks(parts) for parts in sequences]
        if not any(one["sparsity"] for one in measured):
            return None
        for one, parts in zip(measured, sequences, strict=True):
            _observe(attention.method, one, parts)
        return mean(attention, measured)

    async def _take(self) -> list[list[JsonObject]]:
        """The counts of the request by rank and sequence, which the worker then drops."""
        self._attention = None
        try:
            ranks: list[list[JsonObject]] = await self._engine.collective_rpc(
                "sparse_tasks_measure", args=(self._mark,)
            )
        except Exception:  # whatever it is, there is an answer, and it goes out
            _LOG.exception("An answer goes out without what was measured.")
            return []
        return ranks


def _observe(method: str, measured: JsonObject, parts: list[JsonObject]) -> None:
    for phase, share in (measured["sparsity"] or {}).items():
        SPARSITY.labels(method, phase).observe(share)
    if measured["kv_bytes_per_step"] is not None:
        KV_READ.labels(method).inc(measured["kv_bytes_per_step"] * parts[0]["decode"]["steps"])


def _check_unchosen(given: dict[str, Raw]) -> None:
    """Refuse a choice at an endpoint that ignores it.

    Raises:
        UsageError: There is one.
    """
    for table in (given, _table(given, "vllm_xargs"), _table(given, "sampling_params").get("extra_args")):
        for key in _KEYS:
            if isinstance(table, dict) and key in table:
                raise UsageError("request", key, f"works only at {' and '.join(_PATHS)}; leave it out")


def _plain(value: Raw | None) -> Any:
    return None if value is None else msgspec.json.decode(value)


def _table(given: dict[str, Raw], key: str) -> JsonObject:
    value = _plain(given.get(key))
    return value if isinstance(value, dict) else {}


async def _card(engine: Any) -> Card:
    """The card of a server, by vLLM's ``EngineClient``."""
    import vllm

    config = engine.vllm_config
    offer = parse_offer(config.additional_config)
    return Card(
        attention=offer.attention,
        choices=list(offer.choices),
        versions={"sparse-tasks": __version__, "vllm": vllm.__version__},
        dtype=str(config.model_config.dtype).removeprefix("torch."),
        tensor_parallel_size=config.parallel_config.tensor_parallel_size,
        layers=config.model_config.hf_text_config.num_hidden_layers,
        sparse_layers=(await engine.collective_rpc("sparse_tasks_layers"))[0],
        self_test=worst(await engine.collective_rpc("sparse_tasks_tested")),
        config=json.loads(config.model_config.hf_config.to_json_string(use_diff=False)),
    )
