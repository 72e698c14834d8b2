"""The engine ``openai``: any server that speaks OpenAI's protocol, such as vLLM's, SGLang's or llama.cpp's."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from queue import Empty, SimpleQueue
from threading import Thread
from time import perf_counter, time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

from sparse_tasks.core.errors import EngineError, UsageError, nearest
from sparse_tasks.evaluators.engines.engine import ENGINES, Engine, EngineSettings, Output, Request
from sparse_tasks.evaluators.models import Model

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["OpenAIEngine"]

T = TypeVar("T")

_DEFAULT_URL: Final = "http://localhost:8000/v1"
_ENDPOINTS: Final = ("completions", "chat")
_ARGUMENTS: Final = ("base_url", "concurrency", "endpoint", "extra_body", "retries", "timeout")
# What the engine says itself; extra_body may not change it behind its back.
_OURS: Final = frozenset(
    {
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "model",
        "n",
        "prompt",
        "seed",
        "stream",
        "stream_options",
        "temperature",
    }
)

_FIRST_WAIT = 0.5
"""Seconds before the first retry; each further one waits twice as long."""
_LONGEST_WAIT = 60.0
"""Seconds that a retry waits at most, unless the server says how long."""
_LONGEST_RETRY_AFTER = 600.0
"""A server that asks for more seconds than this is out of service, or its quota is used up."""
_SHORT_TIMEOUT = 30.0
"""Seconds for what takes a working server no time: a connection, the list of its models."""


class OpenAIEngine(Engine):
    """Asks a server, many prompts at a time.

    Arguments (``--engine-arg``):

    - ``base_url``: of the server; else the environment's ``OPENAI_BASE_URL``, else ``http://localhost:8000/v1``.
    - ``endpoint``: ``completions`` (default) sends the token ids of the prompt that this project rendered, so what the
      model reads is known to the token. ``chat`` sends the text as one user message, and the server renders it.
    - ``concurrency``: most requests in flight, 1 to 1024, default 16.
    - ``timeout``: seconds of silence after which a request counts as lost, default 3600; a long prompt is silent until
      its first token.
    - ``retries``: of one request, default 8.
    - ``extra_body``: a JSON object of further fields for each request, such as ``{"repetition_penalty": 1.0}``. vLLM
      takes defaults of sampling from the model's ``generation_config.json`` unless it is started with
      ``--generation-config vllm``.

    The key comes from ``OPENAI_API_KEY``.
    """

    name = "openai"
    elsewhere = True
    packages = ("openai",)

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        _require_package()
        arguments = settings.arguments
        for given in arguments:
            if given not in _ARGUMENTS:
                # Without its value, because what a mistyped name was meant to hold may be a secret.
                remedy = "is no argument; set OPENAI_API_KEY" if given == "api_key" else nearest(given, _ARGUMENTS)
                raise UsageError("engine-arg", f"{given}=...", remedy)
        url = arguments.get("base_url", os.environ.get("OPENAI_BASE_URL") or _DEFAULT_URL)
        if not isinstance(url, str) or not _is_url(url):
            raise UsageError("engine-arg", _shown("base_url", url), f"is no URL; give one like {_DEFAULT_URL}")
        self._url = _public(url)
        self._base_url, self._headers = _without_user(url)
        self._endpoint = arguments.get("endpoint", "completions")
        if self._endpoint not in _ENDPOINTS:
            raise UsageError("engine-arg", _shown("endpoint", self._endpoint), "is unknown; choose completions or chat")
        self._concurrency = _whole(arguments, "concurrency", 16, 1, 1024)
        self._retries = _whole(arguments, "retries", 8, 0, 1000)
        self._timeout = _seconds(arguments, "timeout", 3600.0)
        self._extra_body = _extra_body(arguments)
        # Hidden from every message: servers and libraries repeat what they were sent.
        self._key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise UsageError("environment", "OPENAI_API_KEY", "holds a character that no key has; set it again")
        self._secrets = [secret for secret in (self._key, *_credentials(url)) if secret]
        self.takes_ids = self._endpoint == "completions"
        # Servers know the budget under one name or the other; see ``_answer``.
        self._budget = "max_tokens" if self.takes_ids else "max_completion_tokens"
        self._asked = False
        self._context: int | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """Where the server is and how it is asked may change while a run goes on; what it is asked may not."""
        return {"endpoint": self._endpoint} | ({"extra_body": self._extra_body} if self._extra_body else {})

    @classmethod
    def find(cls, name: str) -> Model:
        # The server's name for it, which need not be one that means anything here.
        return Model(name, name)

    def context(self) -> int | None:
        """Most tokens that the server takes, as it says itself.

        Raises:
            EngineError: The server cannot be reached, or gives no list of models.
            UsageError: It does not serve this model.
        """
        if not self._asked:
            self._context = self._ask()
            self._asked = True
        return self._context

    def start(self, needed: int) -> None:
        self.context()

    def generate(self, requests: Iterable[Request]) -> Generator[Output, None, None]:
        source = iter(requests)
        finished: SimpleQueue[Future[Output]] = SimpleQueue()
        failure: EngineError | None = None
        more, running = True, 0
        with _Background(self._client()) as background:
            while more or running:
                if more and running < self._concurrency:
                    request = next(source, None)
                    if request is None:
                        more = False
                    else:
                        background.submit(self._answer(background.client, request), finished.put)
                        running += 1
                # Making a prompt takes time, so what has finished meanwhile is handed out before the next is made.
                full = not more or running == self._concurrency
                try:
                    answered = finished.get(block=full and running > 0)
                except Empty:
                    continue
                running -= 1
                try:
                    output = answered.result()
                except EngineError as error:
                    # What is in flight may still succeed, and is worth keeping.
                    failure = failure or error
                    more = False
                else:
                    yield output
        if failure is not None:
            raise failure

    def version(self) -> str | None:
        import openai

        version: str = openai.__version__
        return version

    def details(self) -> dict[str, Any]:
        return {"base_url": self._url, "concurrency": self._concurrency, "server_model_max_len": self._context}

    # --- the server and its models ------------------------------------------------------------------------------

    def _ask(self) -> int | None:
        """Ask which models there are; returns the context of ours."""
        import openai

        wanted = self.settings.model.source
        try:
            with openai.OpenAI(
                base_url=self._base_url,
                api_key=self._key or "none",
                default_headers=self._headers,
                timeout=min(self._timeout, _SHORT_TIMEOUT),
                max_retries=min(self._retries, 2),
            ) as client:
                # As plain data: what answers at a wrong URL is not what the package expects.
                answer: object = client.get("/models", cast_to=object)
        except openai.APIConnectionError as error:
            raise EngineError(
                f"no server answers at {self._url} ({self._said(error)}); start one, for example with "
                f"'vllm serve {wanted}', or name another with --engine-arg base_url=URL"
            ) from None
        except openai.APIStatusError as error:
            remedy = self._remedy(error.status_code) or "; does the URL end in /v1?"
            raise EngineError(
                f"{self._url}/models answered {error.status_code} ({self._said(error)}){remedy}"
            ) from None
        except (openai.APIError, ValueError) as error:
            raise EngineError(
                f"{self._url}/models did not answer with a list of models ({self._said(error)}); "
                "does the URL end in /v1?"
            ) from None
        listed = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(listed, list):
            raise EngineError(f"{self._url}/models did not answer with a list of models; does the URL end in /v1?")
        models = {str(model["id"]): model for model in listed if isinstance(model, dict) and "id" in model}
        if wanted not in models:
            if not models:
                raise EngineError(f"the server at {self._url} serves no model; start one with 'vllm serve {wanted}'")
            raise UsageError("model", wanted, f"at {self._url} {nearest(wanted, models)}")
        context = models[wanted].get("max_model_len")
        return context if isinstance(context, int) and context > 0 else None

    def _client(self) -> AsyncOpenAI:
        import openai

        # Retries are made here, and not by the client, because only here a stream that breaks can count as one.
        return openai.AsyncOpenAI(
            base_url=self._base_url,
            api_key=self._key or "none",
            default_headers=self._headers,
            timeout=openai.Timeout(self._timeout, connect=min(self._timeout, _SHORT_TIMEOUT)),
            max_retries=0,
        )

    # --- one request --------------------------------------------------------------------------------------------

    async def _answer(self, client: AsyncOpenAI, request: Request) -> Output:
        """Ask until there is an answer or the retries are used up."""
        troubles = _troubles()
        attempt = 0
        while True:
            budget = self._budget
            try:
                return await self._attempt(client, request, budget)
            except troubles as error:
                if budget == "max_completion_tokens" and _status(error) in (400, 422) and budget in self._said(error):
                    # Hosted models refuse the old name of the budget, and some servers know no other.
                    self._budget = "max_tokens"
                    continue
                wait = _wait(error, attempt) if attempt < self._retries else None
                if wait is None:
                    raise self._failure(error, request, attempt) from None
            attempt += 1
            await asyncio.sleep(wait)

    async def _attempt(self, client: AsyncOpenAI, request: Request, budget: str) -> Output:
        """Ask once."""
        began = perf_counter()
        first: float | None = None
        reasoning: list[str] = []
        content: list[str] = []
        finish_reason: str | None = None
        usage: Any = None
        async for chunk in self._stream(client, request, budget):
            usage = chunk.usage or usage
            if first is None and (chunk.reasoning or chunk.text or chunk.finish_reason):
                first = perf_counter()
            reasoning.append(chunk.reasoning)
            content.append(chunk.text)
            finish_reason = chunk.finish_reason or finish_reason
        ended = perf_counter()
        if finish_reason is None:
            raise _BrokenError("the answer broke off")
        if finish_reason in ("abort", "error"):
            raise _BrokenError(f"the server gave up on the answer (finish_reason {finish_reason!r})")
        input_tokens = getattr(usage, "prompt_tokens", None)
        if self.takes_ids and input_tokens is not None and input_tokens != len(request.ids):
            raise EngineError(
                f"{self._url} read {input_tokens} tokens of sample {request.id}, but was sent {len(request.ids)}: "
                "it adds special tokens or cuts prompts off; its scores would be of other prompts"
            )
        # The parser of answers strips reasoning, and so has to see where it ends.
        thought = f"<think>{''.join(reasoning)}</think>" if any(reasoning) else ""
        return Output(
            id=request.id,
            text=thought + "".join(content),
            finish_reason=finish_reason,
            input_tokens=input_tokens,
            output_tokens=getattr(usage, "completion_tokens", None),
            seconds_to_first_token=None if first is None else first - began,
            seconds=ended - began,
        )

    async def _stream(self, client: AsyncOpenAI, request: Request, budget: str) -> AsyncIterator[_Chunk]:
        """The parts of an answer, as they come."""
        common: dict[str, Any] = {
            "model": self.settings.model.source,
            "temperature": self.settings.temperature,
            "seed": self.settings.seed,
            "stream_options": {"include_usage": True},
            budget: request.max_new_tokens,
        }
        if self.takes_ids:
            # The ids replace the prompt here, past the package's own conversion, which takes ten microseconds for
            # each: 10 s for a prompt of 1M tokens, in which no other request would move.
            body = {**self._extra_body, "prompt": request.ids}
            async with await client.completions.create(
                prompt="", stream=True, **common, extra_body=body
            ) as completions:
                async for completion in completions:
                    choice = completion.choices[0] if completion.choices else None
                    yield _Chunk(
                        text=_text(choice, "text"),
                        finish_reason=getattr(choice, "finish_reason", None),
                        usage=completion.usage,
                    )
        else:
            async with await client.chat.completions.create(
                messages=[{"role": "user", "content": request.prompt}],
                stream=True,
                **common,
                extra_body=self._extra_body,
            ) as chat:
                async for part in chat:
                    answer = part.choices[0] if part.choices else None
                    delta = getattr(answer, "delta", None)
                    yield _Chunk(
                        # Servers differ in the name, and some send it under both.
                        reasoning=_text(delta, "reasoning_content") or _text(delta, "reasoning"),
                        text=_text(delta, "content"),
                        finish_reason=getattr(answer, "finish_reason", None),
                        usage=part.usage,
                    )

    # --- messages -----------------------------------------------------------------------------------------------

    def _failure(self, error: Exception, request: Request, attempt: int) -> EngineError:
        """What the user is told about a request that cannot be answered."""
        status = _status(error)
        happened = self._said(error) if status is None else f"it answered {status} ({self._said(error)})"
        tried = f" after {attempt} {'retry' if attempt == 1 else 'retries'}" if attempt else ""
        remedy = self._remedy(status) or "; the same command goes on from where it stopped"
        return EngineError(f"{self._url} gave no answer for sample {request.id}{tried}: {happened}{remedy}")

    def _remedy(self, status: int | None) -> str:
        if status not in (401, 403):
            return ""
        return "; it does not accept OPENAI_API_KEY, set another" if self._key else "; set OPENAI_API_KEY"

    def _said(self, error: Exception) -> str:
        """What an error says, in one short line without secrets."""
        body = getattr(error, "body", None)
        detail = body.get("message") or body.get("detail") if isinstance(body, Mapping) else None
        text = detail if isinstance(detail, str) else str(error)
        if error.__cause__ is not None and str(error.__cause__):
            text = f"{text.rstrip('.')}: {error.__cause__}"
        # Before it is cut, because a part of a secret is one too.
        for secret in self._secrets:
            text = text.replace(secret, "***")
        line = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
        return line if len(line) <= 300 else line[:297] + "..."


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A part of an answer; both endpoints come down to this."""

    text: str
    finish_reason: str | None
    usage: Any
    reasoning: str = ""


class _BrokenError(Exception):
    """A stream ended too early."""


class _Background:
    """Runs coroutines in a thread, for as long as the block lasts; then cancels what still runs, closes the client.

    A thread, because requests have to move while the caller works, and because the caller may have a loop of its
    own, as notebooks do. Coroutines in it, because unlike threads they can be cancelled while they wait.
    """

    def __init__(self, client: AsyncOpenAI) -> None:
        self.client = client
        self._started: SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = SimpleQueue()
        self._thread = Thread(target=lambda: asyncio.run(self._main()), name="openai engine", daemon=True)

    def submit(self, coroutine: Coroutine[Any, Any, T], done: Callable[[Future[T]], None]) -> None:
        """Start a coroutine; ``done`` is called, in the thread, with its result."""
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).add_done_callback(done)

    def __enter__(self) -> _Background:
        self._thread.start()
        self._loop, self._leave = self._started.get()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._leave.set)
        self._thread.join()

    async def _main(self) -> None:
        leave = asyncio.Event()
        async with self.client:
            self._started.put((asyncio.get_running_loop(), leave))
            await leave.wait()
            running = asyncio.all_tasks() - {asyncio.current_task()}
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


# --- which errors are worth another try -------------------------------------------------------------------------


def _troubles() -> tuple[type[Exception], ...]:
    """The errors that mean that a server gave no answer."""
    import openai

    # Older versions of the package do not wrap the errors of their HTTP library once a stream has begun. Which library
    # it is depends on the version too, but the package has loaded it.
    libraries = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    transport = [library.RequestError for library in libraries]
    # A stream that ends in the middle of an event, or of a character, cannot be parsed.
    return openai.APIError, *transport, json.JSONDecodeError, UnicodeDecodeError, _BrokenError


def _status(error: Exception) -> int | None:
    """The HTTP status of an error, be it of the response or, once a stream has begun, of an event in it."""
    status = str(getattr(error, "status_code", None) or getattr(error, "code", None))
    return int(status) if status.isdecimal() else None


def _wait(error: Exception, attempt: int) -> float | None:
    """Seconds until the next try; None where another try would fail likewise."""
    status = _status(error)
    if status is not None and status < 500 and status not in (408, 409, 429):
        return None
    headers = getattr(getattr(error, "response", None), "headers", {})
    asked = _retry_after(headers.get("retry-after", ""))
    if asked > 0:
        return asked if asked <= _LONGEST_RETRY_AFTER else None
    # Jitter keeps requests that failed together from coming back together.
    return min(_FIRST_WAIT * 2.0**attempt, _LONGEST_WAIT) * random.uniform(0.5, 1.0)  # noqa: S311


def _retry_after(header: str) -> float:
    """Seconds that a server asks for, as a number or as a date; 0 where it asks for none."""
    try:
        seconds = float(header) if header.strip().isdecimal() else parsedate_to_datetime(header).timestamp() - time()
    except ValueError:
        return 0.0
    return max(0.0, seconds)


def _text(part: object, field: str) -> str:
    """A field of a response that may be missing, null, or no text."""
    value = getattr(part, field, None)
    return value if isinstance(value, str) else ""


# --- arguments --------------------------------------------------------------------------------------------------


def _require_package() -> None:
    try:
        import openai  # noqa: F401
    except ImportError as error:
        raise UsageError("engine", "openai", "needs the package openai; install sparse-tasks[openai]") from error


def _shown(name: str, value: object) -> str:
    """An argument as the user gave it."""
    if isinstance(value, str):
        return f"{name}={_public(value)}" if name == "base_url" else f"{name}={value}"
    return f"{name}={json.dumps(value)}"


def _whole(arguments: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = arguments.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UsageError("engine-arg", _shown(name, value), f"is no whole number from {least} to {most}")
    return value


def _seconds(arguments: Mapping[str, Any], name: str, default: float) -> float:
    value = arguments.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise UsageError("engine-arg", _shown(name, value), "is no number of seconds above 0")
    return float(value)


def _extra_body(arguments: Mapping[str, Any]) -> dict[str, Any]:
    value = arguments.get("extra_body", {})
    if not isinstance(value, dict):
        raise UsageError("engine-arg", _shown("extra_body", value), 'is no JSON object like {"top_p": 0.9}')
    for field in value:
        if field in _OURS:
            raise UsageError("engine-arg", _shown("extra_body", value), f"may not hold {field}, which the engine sets")
    return value


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and url.isprintable() and " " not in url


def _public(url: str) -> str:
    """A URL, or what was given for one, without what may be secret: user and password, query, fragment."""
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    # Up to the last @, because a password may hold any character.
    rest = rest.rpartition("@")[2].partition("?")[0].partition("#")[0]
    return f"{scheme}{separator}{rest}".rstrip("/")


def _without_user(url: str) -> tuple[str, dict[str, str]]:
    """A URL without user and password, and the header that says them; HTTP libraries log the URLs they ask."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, {}
    name, _, password = user.partition(":")
    login = b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
    return parts._replace(netloc=host).geturl(), {"Authorization": f"Basic {login}"}


def _credentials(url: str) -> list[str]:
    """The parts of a URL that ``_public`` leaves out."""
    parts = urlsplit(url)
    password = parts.password or ""
    login = _without_user(url)[1].get("Authorization", "").removeprefix("Basic ")
    return [password, unquote(password), login, parts.query, parts.fragment]


ENGINES.register(OpenAIEngine.name, OpenAIEngine)
