"""The tokens of each request that an evicting method keeps in one layer."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.agreement import Agreement
from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import Kept, PageIndex
from sparse_tasks.attention.method import EvictMethod, Layer, SharedMethod, StepMethod
from sparse_tasks.attention.vllm.plan import Prompt, Steps
from sparse_tasks.attention.vllm.together import Together
from sparse_tasks.core.errors import EngineError

_ROOM = 128  # written tokens that lists have room for before they are made anew


class Evicted:
    """Tokens kept of each request.

    Args:
        method: The method.
        layer: Position among the layers.
        impl: "auto", "triton" or "torch".
        agreements: What all layers keep of each request, where the method chooses for all of them; one for all layers.
    """

    def __init__(
        self, method: EvictMethod, layer: Layer, impl: str, agreements: dict[str, Agreement] | None = None
    ) -> None:
        self._method, self._layer, self._impl = method, layer, impl
        self._agreements = {} if agreements is None else agreements
        self._kv_heads = 0
        self.reads_values = method.reads_values
        self._seen: dict[str, Tensor] = {}  # state of prompts that are not complete
        self._kept: dict[str, Kept] = {}
        self._known: set[str] = set()
        self._sessions: dict[str, Kept] = {}  # chosen by the first request of each
        self._firsts: dict[str, str] = {}  # sessions of requests that are the first of theirs
        self._joined: set[str] = set()  # requests that go on from what another has chosen
        self._stack: _Stack | None = None
        self._together = Together(method, layer, impl) if isinstance(method, StepMethod) and method.together else None

    def begin(self, request: str, end: int, cached: int, session: str | None) -> None:
        """Register a request before its first step; a preempted request may be registered again.

        Args:
            request: The request.
            end: Tokens after which its prompt, or its context, is complete.
            cached: Of these, tokens that the prefix cache had.
            session: See ``SESSION``.

        Raises:
            EngineError: The method has not seen the cached tokens, or the session's context is a different one.
        """
        if request in self._known:
            return
        kept = self._sessions.get(session or "")
        if kept is not None:
            if kept.length != end:
                raise EngineError(f"{request}: its context has {end} tokens, and that of its session {kept.length}")
            self._kept[request], self._stack = kept, None
            self._joined.add(request)
        elif cached and self._method.unshared:
            raise EngineError(f"{request}: {self._method.name} has not seen {cached} tokens of the prefix cache")
        elif session is not None and self._method.shared_in_sessions:
            self._firsts[request] = session
        self._known.add(request)

    def close(self, session: str) -> None:
        """Drop what was chosen for a session."""
        self._sessions.pop(session, None)

    def forget(self, request: str) -> None:
        """Drop a finished request."""
        self._known.discard(request)
        self._joined.discard(request)
        self._firsts.pop(request, None)
        self._seen.pop(request, None)
        self._kept.pop(request, None)
        if self._together is not None:
            self._together.forget(request)

    def read(self, prompt: Prompt, q: Tensor, k: Tensor, v: Tensor | None) -> None:
        """Observe a prompt, or a chunk of it; with its last chunk, choose the tokens that stay.

        Args:
            prompt: The prompt.
            q: ``[n_q, query_heads, head_size]``: its queries, scaled so that scores need ``head_size ** -0.5``.
            k: ``[end, kv_heads, head_size]``: the keys of the prompt so far.
            v: ``[end, kv_heads, value_size]``: the values, where the method reads them and the prompt is complete.
        """
        if prompt.request in self._joined:
            return
        if (agreement := self._agreements.get(prompt.request)) is not None and agreement.reached:
            return  # it was preempted, and this step may have later tokens of it
        earlier = self._seen.pop(prompt.request, None) if prompt.start else None
        seen = self._method.observe(earlier, q, k, impl=self._impl)
        if prompt.complete and isinstance(self._method, SharedMethod):
            new = Agreement(self._method, self._layer.count, prompt.length, self._impl)
            self._agreements.setdefault(prompt.request, new).add(self._method.rank(seen, k, v=v, impl=self._impl))
            self._kv_heads, self._stack = k.shape[1], None
        elif prompt.complete:
            kept = self._method.settle(seen, k, v=v, length=prompt.length, layer=self._layer, impl=self._impl)
            if self._together is not None:
                self._together.begin(prompt.request, kept)
            else:
                self._kept[prompt.request], self._stack = kept, None
                if (session := self._firsts.get(prompt.request)) is not None:
                    self._sessions[session] = kept
        else:
            self._seen[prompt.request] = seen

    def step(self, steps: Steps, q: Tensor, cache: PagedCache) -> PageIndex:
        """Tokens that each query sees.

        Args:
            steps: The queries.
            q: ``[queries, query_heads, head_size]``, scaled as in ``read``.
            cache: The cache of these queries.
        """
        if self._together is not None:
            return self._together.step(steps, q, cache)
        if self._method.each_step:
            return self._evict(steps, q, cache)
        # The kept part of the prompt and all that was written since: lists change only with the requests.
        stack = self._stack
        if stack is None or not stack.holds(steps):
            stack = _Stack(steps, [self._of(request) for request in steps.requests])
            # Those of a question, a list for each of its tokens, are of no more use.
            self._stack = stack if len(set(steps.requests)) == len(steps.requests) else None
        return stack.index(cache.lengths)

    def _evict(self, steps: Steps, q: Tensor, cache: PagedCache) -> PageIndex:
        """Evict a token of one request after the other; queries of one request stand in their order."""
        seen = []
        for row, (request, length) in enumerate(zip(steps.requests, steps.lengths, strict=True)):
            kept = self._of(request)
            if kept.length != length - 1:
                raise EngineError(f"{request}: {self._method.name} has seen {kept.length} tokens of {length - 1}")
            if length <= steps.asked.get(request, 0):
                kept = self._method.widen(kept)
            now = kept.append(length - 1)
            alone = slice(row, row + 1)
            listed = now.positions[None], now.counts[None]
            (weights,) = self._method.weigh(q[alone], cache.rows(alone), *listed, layer=self._layer, impl=self._impl)
            self._kept[request] = self._method.advance(kept, length - 1, weights)
            seen.append(self._method.visible(now, weights, impl=self._impl))
        return PageIndex(_padded([one.positions for one in seen], 0), torch.stack([one.counts for one in seen]), 1,
                         cache.lengths)  # fmt: skip

    def _of(self, request: str) -> Kept:
        kept = self._kept.get(request)
        if kept is None and (agreement := self._agreements.get(request)) is not None:
            kept = self._kept[request] = agreement.kept(self._kv_heads)
        if kept is None:
            raise EngineError(f"{request}: decoding begins before {self._method.name} has seen the prompt")
        return kept


class _Stack:
    """Lists of a batch with room for later tokens, so that a step changes only counts.

    Args:
        steps: The queries.
        kept: Kept tokens of the prompt of each.
    """

    def __init__(self, steps: Steps, kept: list[Kept]) -> None:
        self._requests = steps.requests
        self._longest = [max(length, one.length) + _ROOM for length, one in zip(steps.lengths, kept, strict=True)]
        room = max(longest - one.length for longest, one in zip(self._longest, kept, strict=True))
        self._pages = _padded([one.positions for one in kept], room)
        device = self._pages.device
        self._prompts = torch.tensor([one.length for one in kept], dtype=torch.int32, device=device)
        self._counts = torch.stack([one.counts for one in kept])
        later = torch.arange(room, dtype=torch.int32, device=device)
        places = (self._counts[..., None] + later).long()
        self._pages.scatter_(2, places, (self._prompts[:, None] + later)[:, None].expand_as(places).contiguous())

    def holds(self, steps: Steps) -> bool:
        """Whether the lists are of these queries and have room for them."""
        return steps.requests == self._requests and all(
            length <= longest for length, longest in zip(steps.lengths, self._longest, strict=True)
        )

    def index(self, cached: Tensor) -> PageIndex:
        """Tokens that the queries see, with so many positions cached, int32 ``[queries]``."""
        return PageIndex(self._pages, self._counts + (cached - self._prompts)[:, None], 1, cached)


def _padded(positions: list[Tensor], room: int) -> Tensor:
    """Lists ``[kv_heads, width]`` stacked with padding, int32 ``[queries, kv_heads, widest + room]``."""
    pages = positions[0].new_zeros(len(positions), len(positions[0]), max(p.shape[1] for p in positions) + room)
    for row, position in enumerate(positions):
        pages[row, :, : position.shape[1]] = position
    return pages
