"""The engine ``openai``: any server that speaks OpenAI's protocol, such as vLLM's, SGLang's or llama.cpp's."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from base64 import b64encode
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import cycle
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from sparse_tasks import __version__
from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.vllm.arguments import Offer
from sparse_tasks.attention.vllm.measured import FIELD, Card, Measured
from sparse_tasks.core.beginning import ANSWER
from sparse_tasks.core.errors import DataError, EngineError, UsageError, install, nearest
from sparse_tasks.core.parameters import Parametric, parameter, parameters
from sparse_tasks.core.records import JsonObject, convert
from sparse_tasks.evaluators.costs import read_shape
from sparse_tasks.evaluators.engines.engine import (
    ENGINES,
    LAYERS,
    SELF_TEST,
    SPARSE_LAYERS,
    Engine,
    EngineSettings,
    Output,
    Request,
    Upcoming,
)
from sparse_tasks.evaluators.models import Model

if TYPE_CHECKING:
    from openai import AsyncOpenAI, AsyncStream

_DEFAULT_URL: Final = "http://localhost:8000/v1"
_FIRST_WAIT = 0.5  # seconds before the first retry; each further retry waits twice as long
_LONGEST_WAIT = 60.0  # maximum seconds before a retry, unless the server asks for more
_LONGEST_RETRY_AFTER = 600.0  # beyond it the server counts as down, or its quota as used up
# Fields of a chat request whose last message the server continues, as named by vLLM and SGLang.
_CONTINUE: Final = {"continue_final_message": True, "add_generation_prompt": False}
# vLLM's and SGLang's servers take defaults from the model's ``generation_config.json``.
_NEUTRAL: Final[JsonObject] = {
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
_SHORT_TIMEOUT = 30.0  # seconds for a connection, and for the list of models


@dataclass(frozen=True)
class _Arguments(Parametric):
    name = "engine-arg"

    base_url: str = parameter("", "URL of the server")
    endpoint: str = parameter("completions", "API of the server", choices=lambda: ("completions", "chat"))
    concurrency: int = parameter(16, "Most requests in flight", low=1, high=1024)
    timeout: float = parameter(3600.0, "Seconds of silence after which a request counts as lost", low=0.001)
    retries: int = parameter(8, "Retries of a request", low=0, high=1000)


class OpenAIEngine(Engine):
    """A server, with many requests in flight.

    Arguments (``--engine-arg``), in ``docs/evaluation.md``: ``base_url``, ``endpoint``, ``concurrency``, ``timeout``,
    ``retries``, ``extra_body``. The key comes from ``OPENAI_API_KEY``.

    With the endpoint ``completions`` the server gets the token ids of the prompt that this project rendered, so the
    model's input is known to the token; with ``chat`` it gets the text as one user message, and renders it. There it
    continues a begun answer if it supports ``continue_final_message``, as vLLM and SGLang do.

    A server with sparse attention that ``sparse-tasks serve`` started reports what it runs, and measures what that
    leaves out; each request names the attention of the run. For other servers the attention is what the user says.
    """

    name = "openai"
    runs_methods = True
    measures_sparsity = True
    elsewhere = True
    begins_answers = True
    thinks_in = "think"
    packages = ("openai",)

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        try:
            import openai  # noqa: F401
        except ImportError as error:
            raise UsageError("engine", "openai", f"needs the package openai; {install('openai')}") from error
        given = dict(settings.arguments)
        known = [*(p.name for p in parameters(_Arguments)), "extra_body"]
        for name in given:
            if name not in known:
                # Without its value, which may be a secret under a mistyped name.
                remedy = "is not an argument; set OPENAI_API_KEY" if name == "api_key" else nearest(name, known)
                raise UsageError("engine-arg", f"{name}=...", remedy)
        self._extra_body = given.pop("extra_body", {})
        self._given = _Arguments.from_settings(given)
        self._server = _Server.at(self._given.base_url or os.environ.get("OPENAI_BASE_URL") or _DEFAULT_URL)
        self._key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise UsageError(
                "environment", "OPENAI_API_KEY", "contains a character that is invalid in a key; set it again"
            )
        self._connection: JsonObject = {
            "base_url": self._server.url,
            "api_key": self._key or "none",
            "default_headers": self._server.headers,
        }
        self.takes_ids = self._given.endpoint == "completions"
        # Servers know the budget under one of two names; see ``_answer``.
        self._budget = "max_tokens" if self.takes_ids else "max_completion_tokens"
        self._body: JsonObject = {
            "model": settings.model.source,
            "temperature": settings.temperature,
            "seed": settings.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        self._check_extra_body()
        self._neutral = {name: value for name, value in _NEUTRAL.items() if name not in self._extra_body}
        self._models: dict[str, JsonObject] | None = None
        self._card: Card | None = None
        self._attention: Attention | None = None  # as run by the server
        self._choice: JsonObject = {}

    def _check_extra_body(self) -> None:
        body, continuing = self._extra_body, set(_CONTINUE) if self.settings.begin_answer else set()
        if not isinstance(body, dict):
            raise UsageError("engine-arg", f"extra_body={body}", 'is not a JSON object like {"top_p": 0.9}')
        reserved = {
            *self._body,
            "prompt",
            "messages",
            "max_tokens",
            "max_completion_tokens",
            "n",
            "logprobs",
            "attention",
            "sparsity",
            *continuing,
        }
        if taken := sorted(reserved & set(body)):
            raise UsageError("engine-arg", f"extra_body={body}", f"may not hold {taken[0]}, which the engine sets")

    @property
    def arguments(self) -> JsonObject:
        """The endpoint and the further fields; a run may go on at another address or with another load."""
        return {"endpoint": self._given.endpoint} | ({"extra_body": self._extra_body} if self._extra_body else {})

    @property
    def attention(self) -> Attention:
        """As reported by the server, once queried."""
        return super().attention if self._attention is None else self._attention

    @classmethod
    def find(cls, name: str) -> Model:
        # The server's name for it, which is opaque here.
        return Model(name, name)

    def context(self) -> int | None:
        """The context length that the server reports, in tokens.

        Raises:
            EngineError: The server cannot be reached, or gives no list of models.
            UsageError: It does not serve this model, or not with this attention.
        """
        if self._models is None:
            self._models = self._list_models()
            self._read_card(self._models[self.settings.model.source].get(FIELD))
        context = self._models[self.settings.model.source].get("max_model_len")
        return context if isinstance(context, int) and context > 0 else None

    def _read_card(self, entry: object) -> None:
        """Find out which attention the server runs, and the fields that select it in a request.

        Raises:
            EngineError: The server's reply has an unexpected form.
            UsageError: It does not run the attention of the run.
        """
        asked, url = self.settings.attention, self._server.name
        if entry is None:
            if asked.sparse:
                remedy = f"does not run at {url}; start the server with {_serve(self.settings.model.source, asked)}"
                raise UsageError("attention", asked.label, remedy)
            return
        try:
            self._card = card = convert(entry, Card, f"{url}/models")
        except DataError as error:
            raise EngineError(f"{error}; this is sparse-tasks {__version__}, and the server another") from error
        if asked in (Attention.UNKNOWN, card.attention):
            self._attention = card.attention
        else:
            try:
                chosen = Offer(card.attention, tuple(card.choices)).choose(asked.method, asked.sparsity)
            except UsageError as error:
                raise UsageError(error.field, error.value, f"{error.remedy} (at {url})") from error
            if chosen.methods != asked.methods or chosen.sparsity != asked.sparsity:
                given = {"sparsity": chosen.sparsity, **chosen.arguments}
                served = ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)
                remedy = f"has {served} at {url}; say so with --sparsity and --set, or start the server anew"
                raise UsageError("attention", asked.label, remedy)
            self._attention = chosen
            self._choice = {"attention": chosen.method}
            if chosen.sparse and chosen.sparsity is not None:
                self._choice["sparsity"] = chosen.sparsity
        self.settings = replace(self.settings, model=replace(self.settings.model, shape=read_shape(card.config)))

    def start(self, needed: int) -> None:
        self.context()
        if self.settings.begin_answer and not self.takes_ids:
            self._check_continues()

    def _check_continues(self) -> None:
        """Check that the server continues an answer: then it reads fewer tokens than if it begins a new turn.

        Raises:
            UsageError: It does not, or does not say how many tokens it read.
        """
        import openai

        remedy = "; choose --engine-arg endpoint=completions, or go without --begin-answer"
        read = []
        try:
            with openai.OpenAI(**self._connection, timeout=self._given.timeout, max_retries=2) as client:
                for body in (_CONTINUE, {}):
                    answer = client.chat.completions.create(
                        model=self.settings.model.source,
                        messages=[{"role": "user", "content": "Say 1."}, {"role": "assistant", "content": ANSWER}],
                        max_tokens=1,
                        extra_body=self._extra_body | body,
                    )
                    read.append(getattr(answer.usage, "prompt_tokens", None))
        except openai.APIConnectionError as error:
            raise EngineError(f"{self._server.name} broke off: {self._message(error)}") from None
        except openai.APIError as error:
            reason = f"cannot begin answers at {self._server.name}: {self._reason(error)}{remedy}"
            raise UsageError("engine-arg", "endpoint=chat", reason) from None
        continued, anew = read
        if continued is None or anew is None or continued >= anew:
            reason = (
                f"cannot begin answers at {self._server.name}, which does not support continue_final_message{remedy}"
            )
            raise UsageError("engine-arg", "endpoint=chat", reason)

    def generate(self, requests: Iterable[Request]) -> Generator[Output, None, None]:
        import openai
        from anyio.from_thread import start_blocking_portal

        upcoming = Upcoming(requests)
        finished: SimpleQueue[Future[Output]] = SimpleQueue()
        running: dict[Future[Output], Request] = {}
        failure: EngineError | None = None
        more = True  # until the first answer
        timeout = openai.Timeout(self._given.timeout, connect=min(self._given.timeout, _SHORT_TIMEOUT))
        # Retries are made here, not by the client, since only here broken streams can count.
        opened = openai.AsyncOpenAI(**self._connection, timeout=timeout, max_retries=0)
        # In a separate thread, because requests must progress while the caller works.
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(opened) as client:
            try:
                while more or running:
                    if more and len(running) < self._given.concurrency:
                        request = upcoming.take()
                        if request is None:
                            more = False
                        else:
                            future = portal.start_task_soon(self._answer, client, request)
                            running[future] = request
                            future.add_done_callback(finished.put)
                    # Making a prompt takes time, so finished answers are yielded first.
                    full = not more or len(running) == self._given.concurrency
                    try:
                        future = finished.get(block=full and bool(running))
                    except Empty:
                        continue
                    answered = running.pop(future)
                    try:
                        output = future.result()
                    except EngineError as error:
                        # Requests in flight may still succeed, and are kept.
                        failure = failure or error
                    else:
                        upcoming.answered(answered)
                        yield output
                    more = failure is None
            finally:
                for future in running:
                    future.cancel()
        if failure is not None:
            raise failure

    def version(self) -> str | None:
        return version("openai")

    def details(self) -> JsonObject:
        context = None if self._models is None else self.context()
        details = {
            "base_url": self._server.name,
            "concurrency": self._given.concurrency,
            "server_model_max_len": context,
        }
        if (card := self._card) is None:
            return details
        return details | {
            "server": card.versions,
            "dtype": card.dtype,
            "tensor_parallel_size": card.tensor_parallel_size,
            SPARSE_LAYERS: card.sparse_layers,
            LAYERS: card.layers,
            SELF_TEST: card.self_test,
        }

    def _list_models(self) -> dict[str, JsonObject]:
        """The server's entries on its models, by name; this engine's model is among them."""
        import openai

        model, url = self.settings.model.source, self._server.name
        hint = "; does the URL end in /v1?"
        timeout, retries = min(self._given.timeout, _SHORT_TIMEOUT), min(self._given.retries, 2)
        try:
            with openai.OpenAI(**self._connection, timeout=timeout, max_retries=retries) as client:
                # As plain data: at a wrong URL the reply does not have the package's types.
                answer: object = client.get("/models", cast_to=object)
        except openai.APIConnectionError as error:
            raise EngineError(
                f"no server answers at {url} ({self._message(error)}); start one, for example with "
                f"{_serve(model)}, or name another with --engine-arg base_url=URL"
            ) from None
        except (openai.APIError, ValueError) as error:
            hint = self._remedy(error) or hint
            raise EngineError(f"{url}/models gave no list of models: {self._reason(error)}{hint}") from None
        entries = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(entries, list):
            raise EngineError(f"{url}/models gave no list of models{hint}")
        models = {str(entry["id"]): entry for entry in entries if isinstance(entry, dict) and "id" in entry}
        if not models:
            raise EngineError(f"the server at {url} serves no model; start one with {_serve(model)}")
        if model not in models:
            raise UsageError("model", model, f"at {url} {nearest(model, models)}")
        return models

    async def _answer(self, client: AsyncOpenAI, request: Request) -> Output:
        """Send a request until it is answered or the retries are used up."""
        transient = _transient_errors()
        attempt = 0
        while True:
            budget, neutral = self._budget, self._neutral
            try:
                return await self._attempt(client, request, budget, neutral)
            except transient as error:
                if unknown := [name for name in neutral if _refuses(error, self._message(error), name)]:
                    # A server that does not know a setting has no default for it.
                    self._neutral = {name: value for name, value in self._neutral.items() if name not in unknown}
                    continue
                refused = _refuses(error, self._message(error), budget)
                if refused and budget == "max_completion_tokens":
                    # Hosted models refuse the old name of the budget, and some servers know no other.
                    self._budget = "max_tokens"
                    continue
                wait = _wait(error, attempt) if attempt < self._given.retries else None
                if wait is None:
                    tries = f" after {attempt} {'retry' if attempt == 1 else 'retries'}" if attempt else ""
                    reason = f"gave no answer for sample {request.id}{tries}: {self._reason(error)}"
                    raise EngineError(f"{self._server.name} {reason}{self._remedy(error)}") from None
            attempt += 1
            await asyncio.sleep(wait)

    async def _attempt(self, client: AsyncOpenAI, request: Request, budget: str, neutral: JsonObject) -> Output:
        began = perf_counter()
        first: float | None = None
        reasoning, content = "", ""
        finish_reason: str | None = None
        usage: Any = None
        reported: object = None
        async with await self._stream(client, request, budget, neutral) as stream:
            async for event in stream:
                usage = event.usage or usage
                reported = getattr(event, FIELD, None) or reported
                choice = event.choices[0] if event.choices else None
                part = choice if self.takes_ids else getattr(choice, "delta", None)
                # Servers differ in the name of reasoning, and some send it under both.
                thought = _text(part, "reasoning_content") or _text(part, "reasoning")
                text = _text(part, "text" if self.takes_ids else "content")
                finish_reason = getattr(choice, "finish_reason", None) or finish_reason
                if first is None and (thought or text or finish_reason):
                    first = perf_counter()
                reasoning += thought
                content += text
        ended = perf_counter()
        if finish_reason is None:
            raise ConnectionError("the answer broke off")
        if finish_reason in ("abort", "error"):
            raise ConnectionError(f"the server gave up on the answer (finish_reason {finish_reason!r})")
        input_tokens = getattr(usage, "prompt_tokens", None)
        if self.takes_ids and input_tokens is not None and input_tokens != len(request.ids):
            raise EngineError(
                f"{self._server.name} read {input_tokens} tokens of sample {request.id}, but was sent "
                f"{len(request.ids)}: it adds special tokens or cuts prompts off; its scores would be of other prompts"
            )
        output_tokens = getattr(usage, "completion_tokens", None)
        # Not all servers count thoughts.
        if finish_reason == "length" and not reasoning and output_tokens not in (None, request.max_new_tokens):
            raise EngineError(
                f"{self._server.name} ended the answer to sample {request.id} after {output_tokens} of "
                f"{request.max_new_tokens} tokens: it has a limit of its own, such as max_new_tokens in the model's "
                "generation_config.json; start vLLM's with --generation-config vllm, or set --max-new-tokens"
            )
        measured = self._measured(reported, request)
        # The answer parser removes thoughts, so it must see where they end, unless the budget ended them.
        end = "" if finish_reason == "length" and not content else "</think>"
        return Output(
            id=request.id,
            text=(f"<think>{reasoning}{end}" if reasoning else "") + content,
            finish_reason=finish_reason,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            thinking_tokens=getattr(getattr(usage, "completion_tokens_details", None), "reasoning_tokens", None),
            seconds_to_first_token=None if first is None else first - began,
            seconds=ended - began,
            **measured,
        )

    def _measured(self, reported: object, request: Request) -> JsonObject:
        """Measurements of an answer, as fields of an ``Output``; none if the server measures nothing.

        Raises:
            ConnectionError: The answer has none.
            EngineError: They are for another attention, or malformed.
        """
        if self._card is None:
            return {}
        if reported is None:
            raise ConnectionError("the answer came without what was measured")
        try:
            measured = convert(reported, Measured, f"{self._server.name}: sample {request.id}")
        except DataError as error:
            raise EngineError(str(error)) from error
        ran = measured.attention
        if ran != self._attention:
            raise EngineError(f"{self._server.name} ran sample {request.id} under {ran.label}; it was restarted")
        return {name: getattr(measured, name) for name in ("sparsity", "sparsity_spread", "kv_bytes_per_step")}

    async def _stream(
        self, client: AsyncOpenAI, request: Request, budget: str, neutral: JsonObject
    ) -> AsyncStream[Any]:
        common = {**self._body, budget: request.max_new_tokens}
        stream: AsyncStream[Any]
        if self.takes_ids:
            # The ids replace the prompt here, past the package's own conversion, which takes ten microseconds for
            # each: 10 s for a prompt of 1M tokens, during which no other request would progress.
            body = neutral | self._extra_body | self._choice | {"prompt": request.ids}
            stream = await client.completions.create(prompt="", extra_body=body, **common)
        else:
            said = zip(cycle(("user", "assistant")), (request.prompt, *request.later), strict=False)
            messages: list[Any] = [{"role": role, "content": content} for role, content in said]
            body = neutral | self._extra_body | self._choice
            if request.beginning:
                messages.append({"role": "assistant", "content": request.beginning})
                body = body | _CONTINUE
            stream = await client.chat.completions.create(messages=messages, extra_body=body, **common)
        return stream

    def _remedy(self, error: Exception) -> str:
        if _status(error) not in (401, 403):
            return ""
        return "; it does not accept OPENAI_API_KEY, set another" if self._key else "; set OPENAI_API_KEY"

    def _reason(self, error: Exception) -> str:
        status, message = _status(error), self._message(error)
        return message if status is None else f"it answered {status} ({message})"

    def _message(self, error: Exception) -> str:
        """An error's message in one short line, with secrets removed."""
        body = getattr(error, "body", None)
        detail = body.get("message") or body.get("detail") if isinstance(body, Mapping) else None
        text = detail if isinstance(detail, str) else str(error)
        if str(error.__cause__ or ""):
            text = f"{text.rstrip('.')}: {error.__cause__}"
        # Before truncation, because a part of a secret is secret too.
        for secret in filter(None, (self._key, *self._server.secrets)):
            text = text.replace(secret, "***")
        line = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
        return line if len(line) <= 300 else line[:297] + "..."


@dataclass(frozen=True, slots=True)
class _Server:
    """A server's address: ``name`` for messages, ``url`` and ``headers`` for requests, ``secrets`` for neither."""

    name: str
    url: str
    headers: dict[str, str]
    secrets: tuple[str, ...]

    @classmethod
    def at(cls, url: str) -> _Server:
        try:
            parts = urlsplit(url)
            valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            shown = "..." if "@" in url else url
            raise UsageError("engine-arg", f"base_url={shown}", f"is not a URL; give one like {_DEFAULT_URL}")
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        name = bare._replace(query="", fragment="").geturl().rstrip("/")
        if parts.username is None:
            return cls(name, url, {}, (parts.query,))
        # As a header, because HTTP libraries log the URLs of requests.
        password = unquote(parts.password or "")
        login = b64encode(f"{unquote(parts.username)}:{password}".encode()).decode()
        secrets = (parts.password or "", password, login, parts.query)
        return cls(name, bare.geturl(), {"Authorization": f"Basic {login}"}, secrets)


def _serve(model: str, attention: Attention = Attention.DENSE) -> str:
    """The command that starts a server of a model."""
    named = f" --attention {attention.method}" if attention.sparse else ""
    return f"'sparse-tasks serve {model}{named}'"


def _transient_errors() -> tuple[type[Exception], ...]:
    """Errors that mean that a server did not answer."""
    import openai

    # Older versions of the package do not wrap the errors of their HTTP library once a stream has begun. Which library
    # it is depends on the version too, but the package has loaded it.
    transport = [sys.modules[name].RequestError for name in ("httpx", "httpx2") if name in sys.modules]
    # A stream that ends within an event or a character cannot be parsed.
    return openai.APIError, *transport, json.JSONDecodeError, UnicodeDecodeError, ConnectionError


def _status(error: Exception) -> int | None:
    """HTTP status of an error, of the response or, once a stream has begun, of an event in it."""
    status = str(getattr(error, "status_code", None) or getattr(error, "code", None))
    return int(status) if status.isdecimal() else None


def _refuses(error: Exception, message: str, name: str) -> bool:
    """Whether a server refuses a field of a request."""
    return _status(error) in (400, 422) and name in message


def _wait(error: Exception, attempt: int) -> float | None:
    """Seconds until the next attempt; None if another attempt would fail as well."""
    status = _status(error)
    if status is not None and status < 500 and status not in (408, 409, 429):
        return None
    retry_after = str(getattr(getattr(error, "response", None), "headers", {}).get("retry-after", ""))
    if retry_after.isdecimal() and int(retry_after) > 0:
        return float(retry_after) if int(retry_after) <= _LONGEST_RETRY_AFTER else None
    # Jitter keeps requests that failed together from retrying together.
    return min(_FIRST_WAIT * 2.0**attempt, _LONGEST_WAIT) * random.uniform(0.5, 1.0)  # noqa: S311


def _text(part: object, field: str) -> str:
    """A text field of a response, which may be missing, null, or of another type."""
    value = getattr(part, field, None)
    return value if isinstance(value, str) else ""


ENGINES.register(OpenAIEngine.name, OpenAIEngine)
