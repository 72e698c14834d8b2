"""Chat templates, rendered as ``transformers`` renders them, in a sandbox."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from itertools import cycle
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sparse_tasks.core.errors import UsageError

# Some templates print today's date (Llama 3), so the date is fixed.
_TODAY = datetime(2025, 1, 1)
# The hash of a template always covers these special tokens, others only if the template names them.
_ALWAYS = ("bos_token", "eos_token", "unk_token", "pad_token")
# A message to probe templates with.
_TRIAL = "How many?"


class _Generation(Extension):
    """``{% generation %}``, which marks the model's turns in templates; it prints its content."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        tag = next(parser.stream)
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=tag.lineno)


class ChatTemplate:
    """A Jinja chat template around a user's message, or a chat that ends in one.

    Args:
        source: The template's text.
        special_tokens: Texts by name (``bos_token``), which the template may use.

    Raises:
        UsageError: The template does not parse.
    """

    def __init__(self, source: str, special_tokens: dict[str, str] | None = None) -> None:
        self.source = source
        self.special_tokens = {
            name: text for name, text in (special_tokens or {}).items() if name in _ALWAYS or name in source
        }
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
        """Hash of the template and the special tokens that it may print."""
        content = json.dumps([self.source, self.special_tokens], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def render(self, prompt: str, beginning: str = "", later: Sequence[str] = ()) -> str:
        """The conversation of one user message, or of several, ready for the model to answer.

        Args:
            prompt: The message.
            beginning: Beginning of the model's answer; the text ends with it.
            later: Later messages, the model's and the user's in turn.

        Raises:
            UsageError: The template refuses the conversation, or changes the model's messages.
        """
        if not beginning:
            text = self._rendered("a chat" if later else "a single user message", prompt, *later)
            if not _holds(text, prompt, *later):
                raise UsageError(
                    "chat-template",
                    _shown(self.source),
                    "changes the prompt; name another with --chat-template FILE, or none",
                )
            return text
        # The template writes the answer itself, since it may put more before it, such as an empty thinking block. The
        # digit keeps the end of the beginning from being stripped.
        answer = beginning + "0"
        text = self._rendered("an assistant's message", prompt, *later, answer)
        head, found, _ = text.rpartition(answer)
        if not found or not _holds(head, prompt, *later):
            raise UsageError("begin-answer", beginning, "is changed by this chat template; leave out --begin-answer")
        return head + beginning

    @cached_property
    def _in_parts(self) -> bool:
        """Whether this template takes messages as lists of parts (``{"type": "text", "text": ...}``)."""
        return not self._shows_trial(in_parts=False) and self._shows_trial(in_parts=True)

    def _shows_trial(self, in_parts: bool) -> bool:
        try:
            return _TRIAL in self._write(in_parts, _TRIAL)
        except Exception:  # a template can raise anything
            return False

    def _rendered(self, what: str, *texts: str) -> str:
        try:
            return self._write(self._in_parts, *texts)
        except Exception as error:
            raise UsageError("chat-template", _shown(self.source), f"refuses {what}: {error}") from error

    def _write(self, in_parts: bool, *texts: str) -> str:
        """Render messages, the user's and the model's in turn."""
        return self._template.render(
            messages=[
                {"role": role, "content": [{"type": "text", "text": text}] if in_parts else text}
                for role, text in zip(cycle(("user", "assistant")), texts, strict=False)
            ],
            tools=None,
            documents=None,
            add_generation_prompt=len(texts) % 2 == 1,
            **self.special_tokens,
        )


def _holds(text: str, *messages: str) -> bool:
    """Whether a text contains the messages unchanged and in order."""
    at = 0
    for message in messages:
        at = text.find(message.strip(), at) + len(message.strip())
        if at < len(message.strip()):
            return False
    return True


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _shown(source: str) -> str:
    return source if len(source) <= 60 else source[:57] + "..."
