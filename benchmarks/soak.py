"""Soak of servers of sparse attention: thousands of requests get the same answers as alone, and leave nothing behind.

    python benchmarks/soak.py                     # 2,000 requests
    python benchmarks/soak.py --requests 800      # a short one

Needs vLLM (its CPU build is enough) and transformers. The model is tiny and random, and so sensitive that omitted
tokens change the text. Servers start one after another (``sparse-tasks serve``): vLLM's own, and then each other kind
of ``KINDS`` twice. The first of a kind gets every distinct request alone; then all of them repeatedly and concurrently,
with a cache that is too small for them. Some clients disconnect early, and sometimes the server's own sparsity changes.

Prints a table. Exits with 1, and lists violations, if

- a text, token or measurement differs from that of the request alone (what preemption computes again counts again, so
  that as many requests as there were preemptions may measure otherwise, by ``NEAR``);
- the totals of ``/metrics`` are not the sums of the requests';
- a table of the session has entries left when all requests have ended;
- memory of a process grows by more than ``GROWTH`` for each request beyond what vLLM's own server grows by;
- there was no preemption, no hit of the prefix cache or no abort, so that nothing was shown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

VOCABULARY = 256
AT_ONCE = 32
NEAR = 0.05
GROWTH = 2**14
"""Bytes for each request that a process of a server may grow by, beyond the same process of vLLM's own server."""
SETTLED = 300
"""Requests below which growth says nothing: at first every process grows with each new shape that it meets."""
OWN = "vLLM's own"
CHANGES = (0.9, 0.5, 0.8)
"""Sparsity of requests that choose nothing, one after the other."""
DISTINCT = 24
ABORTED = 0.12
EVERY = 20  # requests between memory samples

COMMON = ("--max-model-len", "768", "--max-num-seqs", "32", "--block-size", "32", "--dtype", "float32", "--seed", "0",
          "--no-enable-log-requests")  # fmt: skip
FEW_BLOCKS = ("--num-gpu-blocks-override", "41")  # 1,280 tokens
CHUNKS = ("--max-num-batched-tokens", "256")
WHOLE = ("--max-num-batched-tokens", "16384")


@dataclass(frozen=True)
class Kind:
    """A kind of server; with only ``dense`` it is vLLM's own, without the plugin, as the baseline.

    Attributes:
        attentions: The choices of requests; the first is the server's default.
        options: Of vLLM's server.
        prefixes: Whether it caches prefixes.
    """

    attentions: tuple[str, ...]
    options: tuple[str, ...]
    prefixes: bool = False

    @property
    def changes(self) -> tuple[float, ...]:
        """Sparsity of requests that choose nothing, one after the other."""
        return CHANGES[:1] if self.attentions == ("dense",) else CHANGES


KINDS = {
    OWN: Kind(("dense",), (*CHUNKS, "--no-enable-prefix-caching")),
    "pages": Kind(("quest", "twilight", "sparq"), CHUNKS, prefixes=True),
    "eviction": Kind(("snapkv", "h2o", "tova", "knorm"), CHUNKS),
    # Their selection depends on chunks of prompts, so a step fits all prompts.
    "prompts": Kind(("vertical_slash+quest", "block_sparse+snapkv", "flexprefill+h2o"), WHOLE),
}


@dataclass(frozen=True)
class Ask:
    """A request.

    Attributes:
        prompt: Its tokens.
        tokens: Number of tokens to write.
        attention: Its choice; None is the server's own.
        sparsity: Its choice; None is the server's own.
    """

    prompt: tuple[int, ...]
    tokens: int
    attention: str | None
    sparsity: float | None


@dataclass(frozen=True)
class Answer:
    """An answer.

    Attributes:
        text: Its text.
        ids: Its tokens.
        measured: What the server measured (``Measured``).
    """

    text: str
    ids: tuple[int, ...]
    measured: Mapping[str, Any]


@dataclass
class Life:
    """A server from start to end, and its results.

    Attributes:
        kind: Of ``KINDS``.
        answers: Of all finished requests, with the server's default sparsity at the time.
        aborted: Requests whose client disconnected.
        parted: Aborted requests whose text differed from that alone.
        metrics: Totals of ``/metrics`` at the end, without those of the start.
        tables: Entries of the session's tables, after the requests alone and at the end.
        memory: Memory of each process over time, in bytes.
        left: Processes that outlived the server.
        seconds: From the first of the requests that ran together to the last.
    """

    kind: str
    answers: list[tuple[Ask, float, Answer]] = field(default_factory=list)
    aborted: int = 0
    parted: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    tables: list[dict[str, int]] = field(default_factory=list)
    memory: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    left: int = 0
    seconds: float = 0.0


Alone = dict[tuple[str, Ask, float], Answer]


def make_model(folder: Path) -> None:
    """A random Llama whose tokens are words."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=1024, initializer_range=0.2, bos_token_id=0,
        eos_token_id=1,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1").save_pretrained(folder)


def distinct(kind: str) -> list[Ask]:
    """Requests of a kind, some of whose prompts share a prefix."""
    draw = random.Random(kind)
    documents = [[draw.randrange(2, VOCABULARY) for _ in range(700)] for _ in range(4)]
    asked = []
    for number in range(DISTINCT):
        begin = draw.choice(documents)[: draw.choice((12, 50, 100, 180, 300, 600))]
        prompt = (*begin, *(draw.randrange(2, VOCABULARY) for _ in range(draw.randint(1, 40))))
        names = (None,) if kind == OWN else (None, None, "dense", *KINDS[kind].attentions)
        attention = names[number % len(names)]
        sparsity = None if attention in (None, "dense") else draw.choice((None, 0.5, 0.75, 0.9))
        asked.append(Ask(prompt, draw.choice((1, 2, 8, 16, 24, 40)), attention, sparsity))
    return asked


def owns(kind: str, ask: Ask) -> bool:
    """Whether a request uses the server's own attention and sparsity."""
    return ask.attention is None or (ask.attention, ask.sparsity or CHANGES[0]) == (
        KINDS[kind].attentions[0],
        CHANGES[0],
    )


class Server:
    """A running server.

    Args:
        model: Folder of the model.
        kind: Of ``KINDS``.
        log: Log file.
    """

    def __init__(self, model: Path, kind: str, log: Path) -> None:
        of = KINDS[kind]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.model, self.kind, self.log = str(model), kind, log
        self.address = f"http://127.0.0.1:{port}"
        here = Path(__file__).parent
        path = [str(here.parent), str(here), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            "PYTHONPATH": os.pathsep.join(path), "VLLM_SERVER_DEV_MODE": "1", "VLLM_LOGGING_LEVEL": "WARNING",
            # Free memory is returned at once, so growth shows memory in use.
            "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "32768", "MALLOC_TRIM_THRESHOLD_": "65536",
            # oneDNN caches kernels for 1,024 matrix shapes, which thousands of requests fill, also in vLLM's own
            # server.
            "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
            "TORCHDYNAMO_DISABLE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        }  # fmt: skip
        command = [
            sys.executable, "-m", "sparse_tasks", "serve", self.model, "--attention", ",".join(of.attentions),
            "--host", "127.0.0.1", "--port", str(port), *COMMON, *FEW_BLOCKS, *of.options,
            *([] if kind == OWN else ["--sparsity", str(CHANGES[0]), "--worker-cls", "soak_worker.SoakWorker"]),
        ]  # fmt: skip
        with log.open("w") as said:
            self.process = subprocess.Popen(
                command, stdout=said, stderr=said, env=os.environ | environment, start_new_session=True
            )

    def processes(self) -> list[psutil.Process]:
        """The server and its descendants."""
        one = psutil.Process(self.process.pid)
        return [one, *one.children(recursive=True)]

    def end(self) -> int:
        """Stop it as a user would, and wait; kill and return leftover processes."""
        processes = self.processes() if self.process.poll() is None else []
        self.process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(processes, timeout=30)
        for one in left:
            one.kill()
        self.process.wait()
        return len(left)


class Client:
    """A client of a server.

    Args:
        server: The server.
        session: Of HTTP.
    """

    def __init__(self, server: Server, session: aiohttp.ClientSession) -> None:
        self._server, self._session = server, session

    async def ready(self) -> None:
        """Wait until the server answers.

        Raises:
            RuntimeError: It has ended.
        """
        while True:
            try:
                async with self._session.get(f"{self._server.address}/health") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            if self._server.process.poll() is not None:
                raise RuntimeError(f"the server has ended: {self._server.log.read_text()[-3000:]}")
            await asyncio.sleep(0.5)

    def _body(self, ask: Ask, tokens: int | None = None) -> dict[str, Any]:
        chosen = {"attention": ask.attention, "sparsity": ask.sparsity}
        return {
            "model": self._server.model, "prompt": list(ask.prompt), "max_tokens": tokens or ask.tokens,
            "temperature": 0, "ignore_eos": True, "return_token_ids": True,
            **{key: value for key, value in chosen.items() if value is not None},
        }  # fmt: skip

    def _post(self, body: dict[str, Any]) -> Any:
        return self._session.post(f"{self._server.address}/v1/completions", json=body)

    async def whole(self, ask: Ask) -> Answer:
        """An answer without streaming."""
        async with self._post(self._body(ask)) as answer:
            if answer.status != 200:
                raise RuntimeError(f"status {answer.status}: {await answer.text()}")
            reported = await answer.json()
        (choice,) = reported["choices"]
        return Answer(choice["text"], tuple(choice["token_ids"]), reported.get("sparse_tasks", {}))

    async def streamed(self, ask: Ask) -> Answer:
        """A streamed answer."""
        text, ids, measured = "", list[int](), {}
        async with self._post(self._body(ask) | {"stream": True, "stream_options": {"include_usage": True}}) as answer:
            async for event in _events(answer):
                measured = event.get("sparse_tasks", measured)
                for choice in event["choices"]:
                    text += choice["text"]
                    ids += choice["token_ids"] or []
        return Answer(text, tuple(ids), measured)

    async def left(self, ask: Ask, parts: int) -> str:
        """A request whose client disconnects during a long answer; the text so far."""
        text = ""
        body = self._body(ask, 768 - len(ask.prompt)) | {"stream": parts > 0}
        try:
            async with asyncio.timeout(None if parts else 0.05), self._post(body) as answer:
                async for event in _events(answer):
                    text += "".join(choice["text"] for choice in event["choices"])
                    parts -= 1
                    if parts == 0:
                        break
                answer.close()
        except TimeoutError:
            pass
        return text

    async def metrics(self) -> dict[str, float]:
        """Values of ``/metrics`` by name and labels of ours, summed over vLLM's."""
        async with self._session.get(f"{self._server.address}/metrics") as answer:
            text = await answer.text()
        found: dict[str, float] = defaultdict(float)
        for name, labels, value in re.findall(r"^([\w:]+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE):
            kept = re.findall(r'\b(?:method|phase|finished_reason)="[^"]*"', labels)
            found[f"{name}{{{','.join(sorted(kept))}}}"] += float(value)
        return found

    async def tables(self) -> dict[str, int]:
        """Entries of the session's tables, once no request runs; vLLM's own server has no session."""
        await self.idle()
        found: dict[str, int] = {} if self._server.kind == OWN else await self.rpc("soak_tables")
        return found

    async def rpc(self, method: str, *given: Any) -> Any:
        """Call a method of the worker."""
        body = {"method": method, "args": given}
        async with self._session.post(f"{self._server.address}/collective_rpc", json=body) as answer:
            if answer.status != 200:
                raise RuntimeError(f"{method}: status {answer.status}: {await answer.text()}")
            return (await answer.json())["results"][0]

    async def idle(self) -> None:
        """Wait until no request runs or waits."""
        while True:
            now = await self.metrics()
            if now["vllm:num_requests_running{}"] == now["vllm:num_requests_waiting{}"] == 0:
                return
            await asyncio.sleep(0.2)

    async def change(self, sparsity: float) -> None:
        """Change the default sparsity, which recreates all methods."""
        await self.idle()
        async with self._session.post(f"{self._server.address}/reset_prefix_cache") as answer:
            answer.raise_for_status()
        if self._server.kind == OWN:
            return
        names = KINDS[self._server.kind].attentions
        settings = {"attention": names[0], "sparsity": sparsity, "choices": list(names), "self_test": False}
        await self.rpc("sparse_tasks_change", settings)


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    if answer.status != 200:
        raise RuntimeError(f"status {answer.status}: {await answer.text()}")
    async for line in answer.content:
        if line.startswith(b"data: {"):
            yield json.loads(line[len(b"data: ") :])


@asynccontextmanager
async def serving(model: Path, kind: str, log: Path, life: Life) -> AsyncIterator[tuple[Server, Client]]:
    """A server within the block."""
    server = Server(model, kind, log)
    try:
        # Each request has its own connection: the server may close an idle one just as it is reused.
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=600)) as session:
            client = Client(server, session)
            await client.ready()
            yield server, client
    finally:
        life.left = server.end()


async def live(model: Path, kind: str, log: Path, requests: int, alone: Alone, draw: random.Random) -> Life:
    """Run a server with this many requests."""
    life, asked = Life(kind), distinct(kind)
    async with serving(model, kind, log, life) as (server, client):
        before = await client.metrics()
        known = (kind, asked[0], CHANGES[0]) in alone
        by_itself = list[tuple[Ask, float, Answer]]()
        for sparsity in KINDS[kind].changes:
            await client.change(sparsity)
            # For a repeated kind, warm up each attention, so first requests do not count as growth.
            for ask in {ask.attention: ask for ask in asked}.values() if known else asked:
                if sparsity == CHANGES[0] or owns(kind, ask):
                    by_itself.append((ask, sparsity, await client.whole(ask)))
        for ask in asked if not known else ():
            alone.update({(kind, ask, sparsity): answer for one, sparsity, answer in by_itself if one == ask})
            for sparsity in KINDS[kind].changes:
                alone.setdefault((kind, ask, sparsity), alone[kind, ask, CHANGES[0]])
        life.tables.append(await client.tables())
        begun = time.monotonic()
        parts = len(KINDS[kind].changes)
        for number, sparsity in enumerate(KINDS[kind].changes):
            await client.change(sparsity)
            count = requests * (number + 1) // parts - requests * number // parts
            await _crowd(server, client, life, asked, sparsity, count, alone, draw)
        life.seconds = time.monotonic() - begun
        life.tables.append(await client.tables())
        after = await client.metrics()
        life.metrics = {name: value - before.get(name, 0.0) for name, value in after.items()}
        life.answers += by_itself
    return life


async def _crowd(
    server: Server, client: Client, life: Life, asked: Sequence[Ask], sparsity: float, count: int, alone: Alone,
    draw: random.Random,
) -> None:  # fmt: skip
    """Requests, many at once."""
    waiting = [draw.choice(asked) for _ in range(count)]

    async def work() -> None:
        while waiting:
            ask, dice = waiting.pop(), draw.random()
            if dice < ABORTED:
                text = await client.left(ask, draw.choice((0, 0, 1, 3, 8)))
                life.aborted += 1
                known = alone[life.kind, ask, sparsity].text
                life.parted += not (text.startswith(known) or known.startswith(text))
            else:
                answer = await (client.streamed(ask) if dice < 0.5 else client.whole(ask))
                life.answers.append((ask, sparsity, answer))
            if len(waiting) % EVERY == 0:
                for number, process in enumerate(server.processes()):
                    life.memory[f"{number} {_name(process)}"].append(process.memory_info().rss)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


def _name(process: psutil.Process) -> str:
    words = process.cmdline() or [process.name()]
    return next((word for word in words if word.startswith("VLLM")), "server" if "--port" in words else "helper")


def differing(life: Life, alone: Alone) -> tuple[list[Ask], list[tuple[Ask, float]]]:
    """Requests whose text differs from that alone, and those that only differ in measurements, with the difference."""
    texts, measures = list[Ask](), list[tuple[Ask, float]]()
    for ask, sparsity, answer in life.answers:
        other = alone[life.kind, ask, sparsity]
        if (answer.text, answer.ids) != (other.text, other.ids):
            texts.append(ask)
        elif answer.measured != other.measured:
            measures.append((ask, _apart(answer.measured, other.measured)))
    return texts, measures


def _apart(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    """The largest difference of two measured sparsities; infinite where they are of other phases or attentions."""
    one, other = a.get("sparsity") or {}, b.get("sparsity") or {}
    if one.keys() != other.keys() or a.get("attention") != b.get("attention"):
        return float("inf")
    return max((abs(one[phase] - other[phase]) for phase in one), default=0.0)


def totals(life: Life) -> dict[str, tuple[float, float]]:
    """Totals of ``/metrics``, and the expected sums over requests."""
    sums: Counter[str] = Counter()
    for answer in (answer for _, _, answer in life.answers if answer.measured):
        method = answer.measured["attention"]["method"]
        for phase, share in answer.measured["sparsity"].items():
            labels = f'{{method="{method}",phase="{phase}"}}'
            sums[f"sparse_tasks_sparsity_count{labels}"] += 1
            sums[f"sparse_tasks_sparsity_sum{labels}"] += share
        if answer.measured["kv_bytes_per_step"] is not None and not life.metrics["vllm:num_preemptions_total{}"]:
            read = answer.measured["kv_bytes_per_step"] * (len(answer.ids) - 1)
            sums[f'sparse_tasks_kv_read_bytes_total{{method="{method}"}}'] += read
    ours = [name for name in life.metrics if re.match(r"sparse_tasks_sparsity_(count|sum)\b", name)]
    for name in ours:
        sums.setdefault(name, 0.0)
    sums['vllm:request_success_total{finished_reason="length"}'] = len(life.answers)
    return {name: (life.metrics.get(name, 0.0), value) for name, value in sums.items()}


def growth(life: Life, process: str) -> float:
    """Bytes per request by which a process grows, from the middle third of its samples to the last."""
    samples = life.memory.get(process, [])
    third = len(samples) // 3
    if third < 3 or len(life.answers) + life.aborted < SETTLED:
        return 0.0
    grown = statistics.median(samples[-third:]) - statistics.median(samples[third : 2 * third])
    return 3 * grown / (len(life.answers) + life.aborted)


def violations(life: Life, alone: Alone, own: Life) -> Iterator[str]:
    """The violations, in words; ``own`` is vLLM's own server."""
    texts, measures = differing(life, alone)
    if texts:
        yield f"{len(texts)} texts are not those of the request alone, as of {_short(texts[0])}"
    if life.parted:
        yield f"{life.parted} texts of clients that left are not those of the request alone"
    far = [(ask, by) for ask, by in measures if by > NEAR]
    if far:
        yield f"{len(far)} requests measure otherwise than alone, as {_short(far[0][0])} by {far[0][1]:.3g}"
    preempted = life.metrics["vllm:num_preemptions_total{}"]
    if len(measures) > preempted:
        yield f"{len(measures)} requests measure otherwise than alone, after {preempted:.0f} preemptions"
    for name, (total, wanted) in totals(life).items():
        if abs(total - wanted) > 1e-9 * max(1.0, abs(wanted)):
            yield f"{name} is {total:.10g}, and the requests' sum {wanted:.10g}"
    early, late = life.tables
    for name in sorted(early.keys() | late.keys()):
        if late.get(name, 0) > early.get(name, 0):
            yield f"{name} has {late[name]} entries after all requests, and had {early.get(name, 0)} before"
    for name in life.memory:
        if growth(life, name) > growth(own, name) + GROWTH:
            more = f"{growth(life, name) / 1024:,.0f} KiB for each request, vLLM's own {growth(own, name) / 1024:,.0f}"
            yield f"memory of {name} grows by {more}"
    if life.left:
        yield f"{life.left} processes outlived the server"


def _short(ask: Ask) -> str:
    return f"{ask.attention} at {ask.sparsity}, {len(ask.prompt)} + {ask.tokens} tokens"


def nothing_shown(lives: Sequence[Life], alone: Alone) -> Iterator[str]:
    """What did not occur, and so was not tested."""
    if not all(life.aborted for life in lives):
        yield "no request was aborted"
    for kind in dict.fromkeys(life.kind for life in lives):
        of = [life.metrics for life in lives if life.kind == kind]
        if not sum(each["vllm:num_preemptions_total{}"] for each in of):
            yield f"{kind}: no request was preempted"
        if KINDS[kind].prefixes and not sum(each["vllm:prefix_cache_hits_total{}"] for each in of):
            yield f"{kind}: no prefix came from the cache"
    if sensitive(alone) < 0.5:
        yield f"only {sensitive(alone):.0%} of the texts follow from what a method leaves out"


def sensitive(alone: Alone) -> float:
    """Share of distinct requests of ten tokens and more whose own text changes with the sparsity."""
    own = [
        (kind, ask)
        for kind, ask, _ in alone
        if kind != OWN and ask.attention is None and ask.tokens > 9 and len(ask.prompt) > 100
    ]
    changed = [len({alone[kind, ask, sparsity].ids for sparsity in CHANGES}) > 1 for kind, ask in own]
    return statistics.fmean(changed) if changed else 0.0


def table(lives: Sequence[Life], alone: Alone) -> str:
    """The results, a row for each server."""
    head = ("server", "ended", "aborted", "preemptions", "prefix hits", "other texts", "other measures", "MiB",
            "KiB a request", "s")  # fmt: skip
    rows = [head]
    for life in lives:
        texts, measures = differing(life, alone)
        grows = sum(growth(life, name) for name in life.memory)
        rows.append((
            life.kind, f"{len(life.answers):,}", f"{life.aborted:,}",
            f"{life.metrics['vllm:num_preemptions_total{}']:,.0f}",
            f"{life.metrics['vllm:prefix_cache_hits_total{}']:,.0f}", f"{len(texts)}", f"{len(measures)}",
            f"{sum(samples[-1] for samples in life.memory.values()) / 2**20:,.0f}", f"{grows / 1024:,.0f}",
            f"{life.seconds:.0f}",
        ))  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)


async def soak(requests: int, folder: Path) -> tuple[list[Life], Alone]:
    """All servers: vLLM's own, each kind for a quarter of the requests, and all again for the last quarter."""
    make_model(folder / "model")
    alone: Alone = {}
    lives, draw = [], random.Random(0)
    again = [kind for kind in KINDS if kind != OWN]
    for turn, kind in enumerate([*KINDS, *again]):
        count = max(1, requests // (4 if turn < len(KINDS) else 4 * len(again)))
        lives.append(await live(folder / "model", kind, folder / f"{turn}.log", count, alone, draw))
        print(table(lives[-1:], alone), *violations(lives[-1], alone, lives[0]), sep="\n", file=sys.stderr, flush=True)
    return lives, alone


def main() -> int:
    """Soak, print what happened, and return the exit code."""
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # as Ctrl-C does, which ends the server, too
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000, help="requests that run together (default 2,000)")
    parser.add_argument("--folder", type=Path, help="new folder that keeps the model, logs and measurements")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lives, alone = asyncio.run(soak(given.requests, given.folder or Path(folder)))
    print(table(lives, alone))
    print(f"{len(alone)} requests alone; {sensitive(alone):.0%} of the texts change with the sparsity")
    wrong = [f"{life.kind}: {what}" for life in lives for what in violations(life, alone, lives[0])]
    wrong += nothing_shown(lives, alone)
    for what in wrong:
        print(f"violated: {what}")
    if given.folder:
        reported = [
            {"kind": life.kind, "memory": life.memory, "tables": life.tables, "metrics": life.metrics} for life in lives
        ]
        (given.folder / "lives.json").write_text(json.dumps(reported, indent=1), encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
