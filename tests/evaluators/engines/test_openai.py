"""The engine ``openai`` against a server that misbehaves: no answer is lost, made up, or given twice."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from threading import enumerate as threads
from typing import Any

import pytest

from sparse_tasks.core.errors import EngineError, UsageError
from sparse_tasks.evaluators.answers import extract
from sparse_tasks.evaluators.engines import openai as module
from sparse_tasks.evaluators.engines.engine import EngineSettings, Output, Request
from sparse_tasks.evaluators.engines.openai import OpenAIEngine
from sparse_tasks.evaluators.models import Model
from sparse_tasks.evaluators.thinking import Thinking
from tests.evaluators.engines.server import MODEL, FakeServer, Reply

pytest.importorskip("openai", reason="needs the package openai")

# What a model's generation_config.json would else decide, in vLLM's and SGLang's servers.
NEUTRAL = {
    "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}  # fmt: skip
KEY = "sk-secret-0123456789"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing from outside, and no long waits."""
    for name in (*os.environ,):
        if name.startswith("OPENAI_") or name.lower() in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(module, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(module, "_LONGEST_WAIT", 0.02)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


def engine(server: FakeServer, *, temperature: float = 0.0, model: str = MODEL, **arguments: Any) -> OpenAIEngine:
    arguments = {"base_url": server.url, **arguments}
    return OpenAIEngine(EngineSettings(Model(model, model), temperature, 7, arguments))


def requests(count: int) -> Iterator[Request]:
    """Requests s0, s1, ... with ids that begin with 0, 1, ... and prompts p0, p1, ..."""
    for index in range(count):
        yield Request(f"s{index}", f"p{index}", [index, 5, 6, 7], 20)


def until_failure(outputs: Iterator[Output]) -> tuple[list[Output], EngineError]:
    """What came, and the error after it."""
    came: list[Output] = []
    try:
        for output in outputs:
            came.append(output)
    except EngineError as error:
        return came, error
    pytest.fail("no error came")


@pytest.mark.parametrize(
    ("endpoint", "sent", "tokens"),
    [
        ("completions", {"prompt": [0, 5, 6, 7], "max_tokens": 20}, 4),
        ("chat", {"messages": [{"role": "user", "content": "p0"}], "max_completion_tokens": 20}, 7),
    ],
)
def test_requests_and_outputs(server: FakeServer, endpoint: str, sent: dict[str, Any], tokens: int) -> None:
    server.reply = Reply(parts=("an ", "ans", "wer"), pause=0.05, finish_reason="content_filter")
    asked = engine(server, endpoint=endpoint, temperature=0.5)
    assert asked.takes_ids == (endpoint == "completions")
    (output,) = asked.generate(requests(1))
    always = {"model": MODEL, "temperature": 0.5, "seed": 7, "stream": True, "stream_options": {"include_usage": True}}
    assert server.bodies == [always | NEUTRAL | sent]
    assert (output.id, output.text, output.finish_reason) == ("s0", "an answer", "content_filter")
    assert (output.input_tokens, output.output_tokens, output.sparsity) == (tokens, 3, None)
    assert output.seconds_to_first_token is not None
    assert output.seconds is not None
    assert 0.05 <= output.seconds_to_first_token <= output.seconds
    assert list(asked.generate([])) == []


def begun(server: FakeServer, **arguments: Any) -> OpenAIEngine:
    arguments = {"base_url": server.url, "endpoint": "chat", **arguments}
    return OpenAIEngine(EngineSettings(Model(MODEL, MODEL), arguments=arguments, begin_answer=True))


def test_a_begun_answer_is_the_last_message_of_a_chat(server: FakeServer) -> None:
    asked = begun(server)
    asked.start(100)
    server.bodies.clear()
    (output,) = asked.generate([Request("s0", "p0", [], 20, "<answer>\n")])
    (body,) = server.bodies
    assert body["messages"] == [{"role": "user", "content": "p0"}, {"role": "assistant", "content": "<answer>\n"}]
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert output.text == "an answer"


@pytest.mark.parametrize("reply", [Reply(), Reply(usage=False), Reply(status=400, message="Unknown parameter")])
def test_a_server_that_would_begin_another_answer_is_refused(server: FakeServer, reply: Reply) -> None:
    # It reads the same number of tokens with and without the field, reports none, or refuses the field.
    server.continues, server.reply = False, reply
    with pytest.raises(UsageError, match=r"endpoint=chat.* cannot begin answers at .*endpoint=completions"):
        begun(server).start(100)


def test_begun_answers_need_no_question_where_ids_are_sent(server: FakeServer) -> None:
    server.continues = False
    begun(server, endpoint="completions").start(100)
    assert server.bodies == []


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_sessions_ask_the_first_question_first_and_chats_hold_what_was_said(server: FakeServer, endpoint: str) -> None:
    first = Request("s0", "p0", [0, 5], 20, session="s0", questions=3)
    later = [Request(f"s0#{n}", "p0", [0, 5, n], 20, later=("a0", f"p{n}"), session="s0", questions=3) for n in (2, 3)]
    outputs = list(engine(server, endpoint=endpoint).generate([first, *later]))
    assert next(output.id for output in outputs) == "s0"
    assert {output.id for output in outputs} == {"s0", "s0#2", "s0#3"}
    if endpoint == "completions":
        assert server.bodies[0]["prompt"] == [0, 5]
    else:
        assert server.bodies[0]["messages"] == [{"role": "user", "content": "p0"}]
        said = sorted(
            [[message["role"], message["content"]] for message in body["messages"]] for body in server.bodies[1:]
        )
        assert said == [[["user", "p0"], ["assistant", "a0"], ["user", f"p{n}"]] for n in (2, 3)]


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_an_empty_answer_is_an_answer(server: FakeServer, endpoint: str) -> None:
    server.reply = Reply(parts=())
    (output,) = engine(server, endpoint=endpoint).generate(requests(1))
    assert (output.text, output.finish_reason, output.output_tokens) == ("", "stop", 0)
    assert output.seconds_to_first_token is not None


@pytest.mark.parametrize("fields", [("reasoning_content",), ("reasoning",), ("reasoning_content", "reasoning")])
def test_reasoning_stands_before_the_answer_once(server: FakeServer, fields: tuple[str, ...]) -> None:
    server.reply = Reply(
        reasoning=("<answer>41", "</answer>?"), reasoning_fields=fields, parts=("<answer>46", "</answer>")
    )
    (output,) = engine(server, endpoint="chat").generate(requests(1))
    assert output.text == "<think><answer>41</answer>?</think><answer>46</answer>"
    assert extract(output.text) == "46"


def test_reasoning_that_was_cut_off_is_no_answer(server: FakeServer) -> None:
    server.reply = Reply(reasoning=("<answer>41</answer>",), parts=(), finish_reason="length")
    (output,) = engine(server, endpoint="chat").generate(requests(1))
    assert output.text == "<think><answer>41</answer>"
    assert extract(output.text) is None
    assert Thinking().unfinished(output.text)


@pytest.mark.parametrize("tokens", [None, 0, 3])
def test_tokens_of_thought_are_those_that_the_server_reports(server: FakeServer, tokens: int | None) -> None:
    server.reply = Reply(reasoning=("so",), reasoning_tokens=tokens)
    (output,) = engine(server, endpoint="chat").generate(requests(1))
    assert output.thinking_tokens == tokens


def test_a_server_without_usage_leaves_the_counts_open(server: FakeServer) -> None:
    server.reply = Reply(usage=False)
    (output,) = engine(server).generate(requests(1))
    assert (output.text, output.input_tokens, output.output_tokens) == ("an answer", None, None)


def test_extra_fields_reach_the_server(server: FakeServer) -> None:
    for endpoint in ("completions", "chat"):
        list(engine(server, endpoint=endpoint, extra_body={"repetition_penalty": 1.1}).generate(requests(1)))
    assert [body["repetition_penalty"] for body in server.bodies] == [1.1, 1.1]
    assert server.bodies[0]["prompt"] == [0, 5, 6, 7]


def test_it_works_inside_a_running_event_loop(server: FakeServer) -> None:
    """As in a notebook."""
    import asyncio

    async def main() -> list[Output]:
        return list(engine(server).generate(requests(3)))

    assert len(asyncio.run(main())) == 3


@pytest.mark.parametrize("concurrency", [1, 4])
def test_each_request_is_answered_once_and_no_more_are_in_flight_than_allowed(
    server: FakeServer, concurrency: int
) -> None:
    server.reply = Reply(pause=0.05)
    outputs = list(engine(server, concurrency=concurrency).generate(requests(12)))
    assert sorted(output.id for output in outputs) == sorted(f"s{index}" for index in range(12))
    assert sorted(body["prompt"][0] for body in server.bodies) == list(range(12))
    assert server.most_in_flight == concurrency


def test_answers_come_as_they_finish(server: FakeServer) -> None:
    server.script = {0: [Reply(pause=0.5)]}
    assert [output.id for output in engine(server, concurrency=2).generate(requests(4))][-1] == "s0"


def test_requests_are_taken_as_slots_free_up(server: FakeServer) -> None:
    taken = 0

    def counted() -> Iterator[Request]:
        nonlocal taken
        for request in requests(30):
            taken += 1
            yield request

    for given, _ in enumerate(engine(server, concurrency=3).generate(counted())):
        assert taken - given <= 3
    assert taken == 30


def test_an_answer_does_not_wait_until_all_slots_are_taken(server: FakeServer) -> None:
    """Rendering a long prompt takes a second, and there may be hundreds of slots."""
    taken = 0

    def slow() -> Iterator[Request]:
        nonlocal taken
        for request in requests(40):
            time.sleep(0.05)
            taken += 1
            yield request

    outputs = engine(server, concurrency=40).generate(slow())
    next(outputs)
    outputs.close()
    assert taken < 40


def test_an_error_of_the_requests_comes_through(server: FakeServer) -> None:
    def broken() -> Iterator[Request]:
        yield from requests(1)
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        list(engine(server).generate(broken()))


_TROUBLES = {
    "408": Reply(status=408),
    "409": Reply(status=409),
    "429": Reply(status=429),
    "500": Reply(status=500),
    "503": Reply(status=503),
    "no response": Reply(ending="nothing"),
    "broken connection": Reply(ending="drop"),
    "nothing but headers": Reply(ending="drop", parts=()),
    "end without finish reason": Reply(ending="cut"),
    "empty stream": Reply(ending="cut", parts=()),
    "half an event": Reply(ending="garbage"),
    "error event": Reply(ending="error", message="engine died"),
    "aborted": Reply(finish_reason="abort"),
}


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_transient_errors_retry_the_whole_request(server: FakeServer, endpoint: str) -> None:
    for index, reply in enumerate(_TROUBLES.values()):
        server.script[index if endpoint == "completions" else f"p{index}"] = [reply] * 2
    count = len(_TROUBLES) + 1
    outputs = list(engine(server, endpoint=endpoint, retries=2).generate(requests(count)))
    assert {output.id: output.text for output in outputs} == {f"s{index}": "an answer" for index in range(count)}
    assert len(outputs) == count
    assert len(server.bodies) == 3 * count - 2


@pytest.mark.parametrize("trouble", ["503", "broken connection", "empty stream", "error event"])
def test_retries_end(server: FakeServer, trouble: str) -> None:
    server.reply = _TROUBLES[trouble]
    came, error = until_failure(engine(server, retries=2).generate(requests(1)))
    assert (came, len(server.bodies)) == ([], 3)
    assert str(error).startswith(f"{server.url} gave no answer for sample s0 after 2 retries: ")


def test_no_retries_means_one_try(server: FakeServer) -> None:
    server.reply = Reply(status=500, message="out of memory\nand a long trace")
    _, error = until_failure(engine(server, retries=0).generate(requests(1)))
    assert len(server.bodies) == 1
    assert str(error).endswith("sample s0: it answered 500 (out of memory)")


def test_retry_after_is_respected(server: FakeServer) -> None:
    server.script = {0: [Reply(status=429, headers={"Retry-After": "1"})]}
    began = time.perf_counter()
    (output,) = engine(server, retries=1).generate(requests(1))
    elapsed = time.perf_counter() - began
    assert elapsed > 0.9
    # Waiting for a turn says nothing about the model's speed.
    assert output.seconds is not None
    assert output.seconds < elapsed - 0.9


def test_long_outages_are_not_waited_for(server: FakeServer) -> None:
    server.reply = Reply(status=429, message="quota", headers={"Retry-After": "86400"})
    _, error = until_failure(engine(server).generate(requests(1)))
    assert len(server.bodies) == 1
    assert "it answered 429 (quota)" in str(error)


def test_waits_double_and_vary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_WAIT", 0.5)
    monkeypatch.setattr(module, "_LONGEST_WAIT", 60.0)
    for attempt, most in enumerate([0.5, 1, 2, 4, 8, 16, 32, 60, 60]):
        waits = {module._wait(ConnectionError(), attempt) for _ in range(20)}
        assert len(waits) > 1
        assert all(wait is not None and most / 2 <= wait <= most for wait in waits)


def test_a_timeout_ends_a_request(server: FakeServer) -> None:
    server.script = {0: [Reply(ending="hang"), Reply(pause=60)]}
    (output,) = engine(server, timeout=0.4).generate(requests(1))
    assert output.text == "an answer"
    assert len(server.bodies) >= 3


def test_a_long_answer_does_not_time_out(server: FakeServer) -> None:
    server.reply = Reply(parts=("word ",) * 10, pause_each=0.2)
    (output,) = engine(server, timeout=1.6, retries=0).generate(requests(1))
    assert output.output_tokens == 10


def test_what_was_finished_before_the_server_died_is_kept(server: FakeServer) -> None:
    server.dies_after = 5
    came, error = until_failure(engine(server, concurrency=2, retries=1).generate(requests(50)))
    assert sorted(output.id for output in came) == sorted(f"s{body['prompt'][0]}" for body in server.bodies[:5])
    assert server.url in str(error)
    # At most two were in flight, each was tried twice, and nothing more was asked of the dead.
    assert len(server.bodies) in (5 + 2, 5 + 4)


def test_requests_in_flight_finish_when_another_fails(server: FakeServer) -> None:
    server.script = {0: [Reply(status=400, message="no")], 1: [Reply(pause=0.3)], 2: [Reply(pause=0.3)]}
    came, error = until_failure(engine(server, concurrency=3).generate(requests(50)))
    assert {"s1", "s2"} <= {output.id for output in came}
    assert "sample s0: it answered 400 (no)" in str(error)
    assert len(server.bodies) < 50


def test_a_prompt_that_is_too_long_is_reported_at_once(server: FakeServer) -> None:
    message = "This model's maximum context length is 4096 tokens. However, " + "you requested more. " * 50
    server.reply = Reply(status=400, message=message)
    _, error = until_failure(engine(server).generate(requests(1)))
    assert len(server.bodies) == 1
    assert "it answered 400 (This model's maximum context length is 4096 tokens." in str(error)
    assert len(str(error)) < 500


def test_a_server_that_knows_only_the_old_name_of_the_budget_gets_it(server: FakeServer) -> None:
    refused = Reply(status=400, message="Unrecognized argument: max_completion_tokens")
    server.script = {f"p{index}": [refused] for index in range(2)}
    outputs = list(engine(server, endpoint="chat", concurrency=2, retries=0).generate(requests(4)))
    assert len(outputs) == 4
    assert [body.get("max_tokens") for body in server.bodies[-2:]] == [20, 20]
    assert not any("max_completion_tokens" in body for body in server.bodies[-2:])


def test_a_refused_budget_is_tried_once_under_each_name(server: FakeServer) -> None:
    server.reply = Reply(status=400, message="'max_tokens' or 'max_completion_tokens' is too large: 20")
    until_failure(engine(server, endpoint="chat").generate(requests(1)))
    assert len(server.bodies) == 2


def test_a_server_gets_only_the_settings_of_decoding_that_it_knows(server: FakeServer) -> None:
    strangers = Reply(status=400, message="Unrecognized request arguments supplied: min_p, top_k")
    another = Reply(status=422, message="repetition_penalty: extra fields not permitted")
    server.script = {0: [strangers, another]}
    outputs = list(engine(server, concurrency=1, retries=0).generate(requests(4)))
    assert len(outputs) == 4
    known = {"top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    for body in server.bodies[-2:]:
        assert {name: value for name, value in body.items() if name in NEUTRAL} == known


def test_a_setting_that_the_user_gave_is_not_left_out(server: FakeServer) -> None:
    server.reply = Reply(status=400, message="Unrecognized request argument supplied: min_p")
    came, error = until_failure(engine(server, extra_body={"min_p": 0.1}).generate(requests(1)))
    assert (came, len(server.bodies)) == ([], 1)
    assert "min_p" in str(error)


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_a_server_that_cuts_answers_short_is_an_error(server: FakeServer, endpoint: str) -> None:
    server.reply = Reply(parts=("an", "swer"), finish_reason="length")
    _, error = until_failure(engine(server, endpoint=endpoint).generate(requests(1)))
    assert "ended the answer to sample s0 after 2 of 20 tokens" in str(error)
    server.reply = Reply(parts=("word",) * 20, finish_reason="length")
    (output,) = engine(server, endpoint=endpoint).generate(requests(1))
    assert output.output_tokens == 20


@pytest.mark.parametrize("read", [3, 5])
def test_a_prompt_that_the_server_changed_is_an_error(server: FakeServer, read: int) -> None:
    """A doubled token at the start, or a prompt cut off: the answers would be to something else."""
    server.script = {0: [Reply(prompt_tokens=read)]}
    came, error = until_failure(engine(server, concurrency=1).generate(requests(3)))
    assert came == []
    assert f"{server.url} read {read} tokens of sample s0, but was sent 4" in str(error)


def test_a_refused_key_names_the_variable(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.key = "another"
    for ask in (lambda asked: asked.context(), lambda asked: list(asked.generate(requests(1)))):
        with pytest.raises(EngineError, match=r"answered 401 .*; set OPENAI_API_KEY$"):
            ask(engine(server))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(EngineError, match=r"does not accept OPENAI_API_KEY, set another$"):
        engine(server).context()


def test_leaving_early_leaves_no_thread_and_no_request(server: FakeServer) -> None:
    server.script = {index: [Reply(ending="hang")] for index in range(1, 4)}
    before = set(threads())
    outputs = engine(server, concurrency=4).generate(requests(4))
    assert next(outputs).id == "s0"
    outputs.close()
    left = {thread.name for thread in set(threads()) - before}
    assert not any("process_request_thread" not in name for name in left), left


def test_leaving_early_does_not_finish_a_wait(server: FakeServer) -> None:
    server.script = {1: [Reply(status=429, headers={"Retry-After": "300"})]}
    outputs = engine(server, concurrency=2).generate(requests(2))
    assert next(outputs).id == "s0"
    time.sleep(0.1)
    outputs.close()  # long before the wait of five minutes ends


@pytest.mark.skipif(os.name == "nt", reason="signals differ")
def test_an_interrupt_ends_the_process(server: FakeServer) -> None:
    server.script = {1: [Reply(ending="hang")]}
    # A shell's background jobs, and what they start, ignore the signal.
    program = f"""
import signal
from sparse_tasks.evaluators.engines.engine import EngineSettings, Request
from sparse_tasks.evaluators.engines.openai import OpenAIEngine
from sparse_tasks.evaluators.models import Model
signal.signal(signal.SIGINT, signal.default_int_handler)
engine = OpenAIEngine(EngineSettings(Model("m", {MODEL!r}), arguments={{"base_url": {server.url!r}}}))
for output in engine.generate(Request(str(i), "", [i], 4) for i in range(2)):
    print(output.id, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=10)
    assert process.returncode == -signal.SIGINT
    assert complaints.rstrip().endswith("KeyboardInterrupt")
    assert "Warning" not in complaints
    assert "never" not in complaints


@pytest.mark.parametrize(
    ("given", "context"), [({"max_model_len": 131072}, 131072), ({}, None), ({"max_model_len": None}, None)]
)
def test_the_context_is_what_the_server_says(server: FakeServer, given: dict[str, Any], context: int | None) -> None:
    server.models = [{"id": "other", "max_model_len": 1}, {"id": MODEL, "object": "model", **given}]
    asked = engine(server)
    asked.start(1000)
    assert asked.context() == context
    assert asked.details()["server_model_max_len"] == context


def test_a_server_that_cannot_be_reached_is_named_with_what_to_do() -> None:
    with FakeServer() as gone:
        asked = engine(gone, retries=1)
    with pytest.raises(EngineError) as caught:
        asked.context()
    assert str(caught.value).startswith(f"no server answers at {gone.url} (Connection error")
    assert f"'sparse-tasks serve {MODEL}'" in str(caught.value)
    assert "--engine-arg base_url=URL" in str(caught.value)
    _, error = until_failure(asked.generate(requests(2)))
    assert str(error).startswith(f"{gone.url} gave no answer for sample s")


def test_a_model_that_the_server_does_not_have_is_bad_input(server: FakeServer) -> None:
    with pytest.raises(UsageError) as caught:
        engine(server, model="org/modle").start(10)
    assert (caught.value.field, caught.value.value) == ("model", "org/modle")
    assert caught.value.remedy == f"at {server.url} is unknown; did you mean 'org/model'? (choose from org/model)"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, "<html>"),
        (200, "[]"),
        (200, '{"data": [3, {"name": "x"}]}'),
        (404, "not found"),
    ],
)
def test_other_servers_are_reported(server: FakeServer, status: int, body: str) -> None:
    server.models_reply = status, body
    with pytest.raises(EngineError, match=f"{server.url}"):
        engine(server).context()


def test_the_description_names_version_and_arguments(server: FakeServer) -> None:
    import openai

    asked = engine(server, concurrency=3, extra_body={"top_k": 1})
    asked.start(100)
    assert asked.version() == openai.__version__
    assert asked.details() == {"base_url": server.url, "concurrency": 3, "server_model_max_len": 4096}
    # A run may go on at another address, and with another load.
    assert asked.arguments == {"endpoint": "completions", "extra_body": {"top_k": 1}}


def test_the_password_in_a_url_is_used_and_never_shown(server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    login = b64encode(b"user:hunter 2").decode()
    server.reply = Reply(status=400, message=f"bad: user:hunter%202 hunter 2 {login}")
    asked = engine(server, base_url=server.url.replace("//", "//user:hunter%202@"))
    asked.start(10)
    _, error = until_failure(asked.generate(requests(1)))
    assert server.authorizations == [f"Basic {login}"] * 2
    shown = f"{error} {asked.details()} {caplog.text}"
    assert "hunter" not in shown
    assert login not in shown
    assert server.url in str(error)


def test_the_key_is_sent_and_never_shown(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    server.key = KEY
    asked = engine(server, retries=1)
    asked.start(10)
    list(asked.generate(requests(1)))
    shown = [str(asked.details()), repr(asked)]

    server.reply = Reply(status=400, message=f"{'x' * 285} {KEY} is bad")
    # A server that repeats the key in all it says; once the message is cut in the middle of it.
    for reply in (server.reply, Reply(status=500, message=KEY), Reply(ending="error", message=KEY)):
        server.reply = reply
        _, error = until_failure(asked.generate(requests(1)))
        shown += traceback.format_exception(error)
    server.key = "another"
    for ask in (lambda: engine(server).context(), lambda: list(asked.generate(requests(1)))):
        with pytest.raises(EngineError) as caught:
            ask()
        shown += traceback.format_exception(caught.value)
    assert f"Bearer {KEY}" in server.authorizations
    assert not any("sk-secret" in text for text in (*shown, caplog.text))


def test_a_key_that_cannot_be_sent_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("sk-gehe\u00efm", "sk-gehe\nim"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(UsageError, match="OPENAI_API_KEY") as caught:
            OpenAIEngine(EngineSettings(Model("m", "m")))
        assert "gehe" not in str(caught.value)


def test_the_url_comes_from_the_argument_the_environment_or_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    def url(**arguments: Any) -> object:
        return OpenAIEngine(EngineSettings(Model("m", "m"), arguments=arguments)).details()["base_url"]

    assert url() == "http://localhost:8000/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "")
    assert url() == "http://localhost:8000/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "https://host.example/v1")
    assert url() == "https://host.example/v1"
    assert url(base_url="http://here:1/v1") == "http://here:1/v1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"concurency": 4}, "engine-arg: 'concurency=...' is unknown; did you mean 'concurrency'?"),
        ({"api_key": KEY}, "engine-arg: 'api_key=...' is not an argument; set OPENAI_API_KEY"),
        ({"base_url": "localhost:8000"}, "engine-arg: 'base_url=localhost:8000' is not a URL"),
        ({"base_url": "ftp://host/v1"}, "engine-arg: 'base_url=ftp://host/v1' is not a URL"),
        ({"base_url": f"http://user:{KEY}@[::1/v1"}, "engine-arg: 'base_url=...' is not a URL"),
        ({"base_url": "http:///v1"}, "is not a URL"),
        ({"base_url": "http://host:port/v1"}, "is not a URL"),
        ({"base_url": 8000}, "engine-arg: 'base_url=8000' is not a URL"),
        ({"endpoint": "responses"}, "engine-arg.endpoint: 'responses' is unknown"),
        ({"concurrency": 1025}, "engine-arg.concurrency: 1025 is out of range; choose from 1..1024"),
        ({"concurrency": "many"}, "engine-arg.concurrency: 'many' is no"),
        ({"retries": -1}, "engine-arg.retries: -1 is out of range; choose from 0..1000"),
        ({"timeout": 0}, "engine-arg.timeout: 0 is out of range"),
        ({"extra_body": "top_k"}, "engine-arg: 'extra_body=top_k' is not a JSON object"),
        ({"extra_body": {"temperature": 1}}, "may not hold temperature, which the engine sets"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        OpenAIEngine(EngineSettings(Model("m", "m"), arguments=arguments))
    assert message in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_missing_package_has_a_helpful_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(
        UsageError, match=r"^engine: 'openai' needs the package openai; in a clone pip install '\.\[openai\]'"
    ):
        OpenAIEngine(EngineSettings(Model("m", "m")))


def test_a_server_without_models(server: FakeServer) -> None:
    server.models = []
    with pytest.raises(EngineError, match="serves no model"):
        engine(server).context()


def test_an_engine_can_be_reused(server: FakeServer) -> None:
    asked = engine(server)
    for _ in range(2):
        assert sorted(output.id for output in asked.generate(requests(2))) == ["s0", "s1"]
