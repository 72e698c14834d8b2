"""Requests of a worker: where each prompt ends and how much is cached, from the scheduler's output on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.method import EvictMethod
from sparse_tasks.attention.vllm.arguments import CONTEXT
from sparse_tasks.core.errors import EngineError


@dataclass(frozen=True, eq=False)
class Choice:
    """An attention that requests chose instead of the engine's; all of them share one object."""

    attention: Attention


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens of a request in a step.

    Attributes:
        request: vLLM's id of the request.
        first: Place of its first token in the step.
        start: Position of that token in the sequence.
        end: Position after its last token.
        prompt: Tokens of its prompt; the model wrote those after them.
        context: Of these, the tokens after which a method that evicts chooses; None is all of them.
        choice: Its attention; None is the engine's.
        taken_back: Whether a step before has written tokens from ``start`` on, which were not accepted (speculative
            decoding) or lost (preemption).
    """

    request: str
    first: int
    start: int
    end: int
    prompt: int
    context: int | None = None
    choice: Choice | None = None
    taken_back: bool = False


class Requests:
    """Unfinished requests of a worker.

    Args:
        attention: The engine's; None has no method.
    """

    def __init__(self, attention: Attention | None = None) -> None:
        self.attention = attention or Attention.DENSE
        self._choices: dict[str, Choice] = {}  # of those that have one
        self._prompts: dict[str, int] = {}
        self._contexts: dict[str, int] = {}  # of those that have one
        self._cached: dict[str, int] = {}
        self._ends: dict[str, int] = {}  # of what was written to the cache
        self._scheduled: dict[str, int] = {}

    def begin(
        self, scheduled: Any, choose: Callable[[Mapping[str, object]], Choice | None] = lambda extra: None
    ) -> set[str]:
        """Read vLLM's ``SchedulerOutput`` before its step runs.

        Where its method evicts, a request may say how many tokens of its prompt are its context (``CONTEXT``).

        Args:
            scheduled: vLLM's ``SchedulerOutput``.
            choose: The choice of a request, by its ``extra_args``; None is the engine's attention.

        Returns:
            Requests that have finished since the last step.
        """
        finished = set(scheduled.finished_req_ids)
        for request in finished:
            self._prompts.pop(request, None)
            self._contexts.pop(request, None)
            self._choices.pop(request, None)
            self._cached.pop(request, None)
            self._ends.pop(request, None)
        for new in scheduled.scheduled_new_reqs:
            # A preempted request may come as a new one whose tokens the model wrote in part: its prompt stays.
            tokens = new.prompt_token_ids if new.prompt_token_ids is not None else new.prompt_embeds
            self._prompts.setdefault(new.req_id, len(tokens))
            extra = getattr(new.sampling_params, "extra_args", None) or {}
            if (choice := choose(extra)) is not None:
                self._choices.setdefault(new.req_id, choice)
            attention = self.attention if choice is None else choice.attention
            context = extra.get(CONTEXT) if isinstance(attention.decode, EvictMethod) else None
            if isinstance(context, int) and 0 < context < len(tokens):
                self._contexts.setdefault(new.req_id, context)
            self._cached[new.req_id] = new.num_computed_tokens
        cached = scheduled.scheduled_cached_reqs
        self._cached.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        self._scheduled = dict(scheduled.num_scheduled_tokens)
        return finished

    def beginning(self, request: str) -> tuple[int, int, Choice | None]:
        """Of a request: tokens after which its prompt, or its context, is complete; those in the cache; its choice."""
        end = self._contexts.get(request, self._prompts[request])
        return end, self._cached[request], self._choices.get(request)

    def end(self) -> None:
        """End the step; vLLM's own trial runs may follow."""
        self._ends.update({request: self._cached[request] + count for request, count in self._scheduled.items()})
        self._scheduled = {}

    @property
    def running(self) -> bool:
        """Whether a step of requests runs, rather than a trial run of vLLM to warm up or to measure memory."""
        return bool(self._scheduled)

    def rows(self, order: Sequence[str], tokens: Iterable[int]) -> Iterator[Row]:
        """Rows of the step, in the model's order.

        Args:
            order: The requests.
            tokens: Tokens of each row, by vLLM's metadata.

        Raises:
            EngineError: The two differ.
        """
        first = 0
        expected = [self._scheduled.get(request) for request in order]
        if expected != list(tokens) or len(order) != len(self._scheduled):
            raise EngineError("vLLM's rows are in another order than this version of it should have; please report it")
        for request in order:
            count, start = self._scheduled[request], self._cached[request]
            prompt, context = self._prompts[request], self._contexts.get(request)
            taken_back = start < self._ends.get(request, 0)
            yield Row(request, first, start, start + count, prompt, context, self._choices.get(request), taken_back)
            first += count
