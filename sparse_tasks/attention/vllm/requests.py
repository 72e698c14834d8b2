"""What a worker knows of the requests that it serves: where each prompt ends, and what of it the cache holds.

All on the host, from what the scheduler says, so that nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sparse_tasks.core.errors import EngineError

__all__ = ["Requests", "Row"]


@dataclass(frozen=True, slots=True)
class Row:
    """A request's share of a step.

    Attributes:
        request: vLLM's id of the request.
        first: The first of its tokens among those of the step.
        start: The position of that token.
        end: The position after its last token.
        prompt: Tokens of its prompt; what comes after them was written by the model.
    """

    request: str
    first: int
    start: int
    end: int
    prompt: int


class Requests:
    """The requests that a worker was given and that have not finished."""

    def __init__(self) -> None:
        self._prompts: dict[str, int] = {}
        self._cached: dict[str, int] = {}
        self._scheduled: dict[str, int] = {}

    def begin(self, scheduled: Any) -> set[str]:
        """Take notice of vLLM's ``SchedulerOutput`` before its step runs.

        Returns:
            The requests that have finished since the last step.
        """
        finished = set(scheduled.finished_req_ids)
        for request in finished:
            self._prompts.pop(request, None)
            self._cached.pop(request, None)
        for new in scheduled.scheduled_new_reqs:
            # One that was preempted may come as a new one, of which the model wrote a part: the prompt is what it was.
            tokens = new.prompt_token_ids if new.prompt_token_ids is not None else new.prompt_embeds
            self._prompts.setdefault(new.req_id, len(tokens))
            self._cached[new.req_id] = new.num_computed_tokens
        cached = scheduled.scheduled_cached_reqs
        self._cached.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        self._scheduled = dict(scheduled.num_scheduled_tokens)
        return finished

    def end(self) -> None:
        """The step is over: what runs now is no request's."""
        self._scheduled = {}

    @property
    def running(self) -> bool:
        """Whether a step of requests runs; else it is one of vLLM's own, to warm up or to measure memory."""
        return bool(self._scheduled)

    def rows(self, order: Sequence[str], tokens: Iterable[int]) -> Iterator[Row]:
        """The rows of the step, in the order in which the model gets them.

        Args:
            order: The requests.
            tokens: How many tokens each row has, as vLLM says elsewhere.

        Raises:
            EngineError: The two do not agree.
        """
        first = 0
        expected = [self._scheduled.get(request) for request in order]
        if expected != list(tokens) or len(order) != len(self._scheduled):
            raise EngineError("vLLM's rows are in another order than this version of it should have; please report it")
        for request in order:
            count, start = self._scheduled[request], self._cached[request]
            yield Row(request, first, start, start + count, self._prompts[request])
            first += count
