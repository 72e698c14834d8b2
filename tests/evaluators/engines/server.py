"""A fake server with OpenAI's protocol, which misbehaves by script."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any, Literal

MODEL = "org/model"


@dataclass(frozen=True)
class Reply:
    """Answer to a request.

    Attributes:
        status: Other than 200: an error with ``message``.
        headers: Further headers.
        message: Message of the error.
        parts: The answer, as it is streamed.
        reasoning: Text before it, in the fields of ``reasoning_fields``.
        finish_reason: The last part's.
        prompt_tokens: Count in the usage; None for the true count.
        usage: Whether there is usage.
        reasoning_tokens: Tokens of thought in the usage; None where it has none.
        pause: Seconds before the first part.
        pause_each: Seconds after each part.
        ending: ``done`` as it should be; ``drop``: the connection breaks after the parts; ``cut``: the stream ends
            there as if it were whole; ``hang``: nothing more comes; ``garbage``: half an event; ``error``: an event
            with ``message``; ``nothing``: the connection breaks before the response.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = ""
    parts: tuple[str, ...] = ("an ", "answer")
    reasoning: tuple[str, ...] = ()
    reasoning_fields: tuple[str, ...] = ("reasoning_content",)
    finish_reason: str | None = "stop"
    prompt_tokens: int | None = None
    usage: bool = True
    reasoning_tokens: int | None = None
    pause: float = 0.0
    pause_each: float = 0.0
    ending: Literal["done", "drop", "cut", "hang", "garbage", "error", "nothing"] = "done"


class FakeServer(ThreadingHTTPServer):
    """Answers on a free local port, in its own threads, within the block.

    Attributes:
        models: Entries of ``GET /models``.
        models_reply: Status and body instead of the list.
        script: Replies to a prompt, by its first id or its text, first to last; after them, and else, ``reply``.
        reply: Reply to all other prompts.
        key: The only accepted key; None for any.
        measures: Its measurements of a request, by what was sent; None where it measures nothing.
        continues: Whether it goes on with an assistant's message.
        dies_after: Requests, counted over all, after which every connection breaks; None for never.
        bodies: Requests received.
        authorizations: Their ``Authorization`` headers.
        most_in_flight: Requests that were open at the same time.
    """

    daemon_threads = True
    # All clients may connect at once.
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models: list[dict[str, Any]] = [{"id": MODEL, "object": "model", "max_model_len": 4096}]
        self.models_reply: tuple[int, str] | None = None
        self.script: dict[int | str, list[Reply]] = {}
        self.reply = Reply()
        self.key: str | None = None
        self.measures: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda body: None
        self.continues = True
        self.dies_after: int | None = None
        self.bodies: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.errors: list[BaseException] = []
        self.lock = Lock()
        self.leaving = Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self) -> FakeServer:
        self._thread = Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.leaving.set()
        self.shutdown()
        self._thread.join()
        self.server_close()
        if self.errors:
            raise self.errors[0]

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError):  # clients may disconnect
            self.errors.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FakeServer

    def do_GET(self) -> None:
        if not self._allowed():
            return
        assert self.path == "/v1/models", self.path
        status, body = self.server.models_reply or (200, json.dumps({"object": "list", "data": self.server.models}))
        self._whole(status, body, {})

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        sent = self.rfile.read(length)
        if len(sent) < length:
            raise ConnectionError("the client went away while it asked")
        body = json.loads(sent)
        with self.server.lock:
            self.server.bodies.append(body)
            dead = self.server.dies_after is not None and len(self.server.bodies) > self.server.dies_after
            prompt = body["prompt"][0] if self.path.endswith("/v1/completions") else body["messages"][0]["content"]
            replies = self.server.script.get(prompt)
            reply = replies.pop(0) if replies else self.server.reply
        if dead or reply.ending == "nothing":
            self.close_connection = True
            return
        if not self._allowed():
            return
        self._in_flight(+1)
        self._counted = True
        try:
            self._answer(body, reply)
        finally:
            self._finished()

    def _answer(self, body: dict[str, Any], reply: Reply) -> None:
        self.server.leaving.wait(reply.pause)
        if reply.status != 200:
            self._finished()
            self._whole(reply.status, json.dumps({"error": {"message": reply.message, "code": "x"}}), reply.headers)
            return
        chat = "messages" in body
        if not body.get("stream"):  # the check of usage for continued messages
            tokens = 7 if self.server.continues and body.get("continue_final_message") else 9
            usage = {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": 0} if reply.usage else None
            self._finished()
            self._whole(200, json.dumps({"choices": [], "usage": usage}), {})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if chat:
            self._event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        for thought in reply.reasoning:
            self._event({"choices": [{"index": 0, "delta": dict.fromkeys(reply.reasoning_fields, thought)}]})
        for part in reply.parts:
            self._event({"choices": [{"index": 0, **({"delta": {"content": part}} if chat else {"text": part})}]})
            self.server.leaving.wait(reply.pause_each)
        if reply.ending == "hang":
            self.server.leaving.wait()
        if reply.ending == "garbage":
            self._chunk('data: {"choices": [{"ind\n\n')
        if reply.ending == "error":
            self._event({"error": {"message": reply.message, "code": 500}})
        if reply.ending in ("hang", "drop"):
            self.close_connection = True
            return
        if reply.ending == "done":
            # Before the client knows that it is done, because it may send the next one at once.
            self._finished()
            last = {"delta": {}} if chat else {"text": ""}
            self._event({"choices": [{"index": 0, **last, "finish_reason": reply.finish_reason}]})
            if reply.usage:
                sent = 7 if chat else len(body["prompt"])
                prompt_tokens = sent if reply.prompt_tokens is None else reply.prompt_tokens
                usage = {"prompt_tokens": prompt_tokens, "completion_tokens": len(reply.parts), "total_tokens": 0}
                if reply.reasoning_tokens is not None:
                    usage["completion_tokens_details"] = {"reasoning_tokens": reply.reasoning_tokens}
                self._event({"choices": [], "usage": usage})
            if (measured := self.server.measures(body)) is not None:
                self._event({"choices": [], "sparse_tasks": measured})
            self._chunk("data: [DONE]\n\n")
        self._chunk("")

    def _allowed(self) -> bool:
        authorization = self.headers["Authorization"]
        self.server.authorizations.append(authorization)
        if self.server.key is None or authorization == f"Bearer {self.server.key}":
            return True
        # Some servers repeat what they were sent.
        self._whole(401, json.dumps({"error": {"message": f"bad key: {authorization}"}}), {})
        return False

    def _in_flight(self, change: int) -> None:
        with self.server.lock:
            self.server.in_flight += change
            self.server.most_in_flight = max(self.server.most_in_flight, self.server.in_flight)

    def _finished(self) -> None:
        if self._counted:
            self._counted = False
            self._in_flight(-1)

    def _whole(self, status: int, body: str, headers: Mapping[str, str]) -> None:
        encoded = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(encoded)

    def _event(self, event: dict[str, Any]) -> None:
        self._chunk(f"data: {json.dumps(event)}\n\n")

    def _chunk(self, text: str) -> None:
        encoded = text.encode()
        self.wfile.write(f"{len(encoded):x}\r\n".encode() + encoded + b"\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Tests need no log."""
