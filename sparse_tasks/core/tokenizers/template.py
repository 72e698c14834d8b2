"""Chat templates, rendered as ``transformers`` renders them, in a sandbox."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sparse_tasks.core.errors import UsageError

# Templates that print today's date (Llama 3) would make a sample depend on the day it was made.
_TODAY = datetime(2025, 1, 1)


class _Generation(Extension):
    """``{% generation %}``, with which templates mark the model's turns; it prints what it holds."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        tag = next(parser.stream)
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=tag.lineno)


class ChatTemplate:
    """A Jinja chat template that wraps one user message.

    Args:
        source: The template's text.
        special_tokens: Names such as ``bos_token`` and their texts, as the template may use them.

    Raises:
        UsageError: The template does not parse.
    """

    def __init__(self, source: str, special_tokens: dict[str, str] | None = None) -> None:
        self.source = source
        self.special_tokens = dict(special_tokens or {})
        extensions: list[str | type[Extension]] = [loopcontrols, _Generation]
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _TODAY.strftime
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise UsageError("chat-template", _shown(source), f"does not parse: {error}") from error

    @property
    def sha256(self) -> str:
        """Hash of the template and of the special tokens that it may print."""
        content = json.dumps([self.source, self.special_tokens], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def render(self, prompt: str, beginning: str = "") -> str:
        """The conversation of one user message, ready for the model to answer.

        Args:
            prompt: The message.
            beginning: Beginning of the model's answer, with which the text then ends.

        Raises:
            UsageError: The template refuses the conversation, or does not write what a model says as it is.
        """
        messages = [{"role": "user", "content": prompt}]
        if not beginning:
            return self._rendered(messages, "a single user message")
        # Written by the template itself, which may put more before an answer, such as an empty block of thoughts. The
        # digit keeps the end of the beginning from being stripped.
        answer = beginning + "0"
        text = self._rendered([*messages, {"role": "assistant", "content": answer}], "an assistant's message")
        head, found, _ = text.rpartition(answer)
        if not found or prompt.strip() not in head:
            raise UsageError(
                "begin-answer", beginning, "is not written as it is by this chat template; go without --begin-answer"
            )
        return head + beginning

    def _rendered(self, messages: list[dict[str, str]], what: str) -> str:
        try:
            return self._template.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=messages[-1]["role"] == "user",
                **self.special_tokens,
            )
        except Exception as error:  # a template can raise anything: 1 / 0, 'a' + 1
            raise UsageError("chat-template", _shown(self.source), f"refuses {what}: {error}") from error


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _shown(source: str) -> str:
    return source if len(source) <= 60 else source[:57] + "..."
