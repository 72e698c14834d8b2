"""Ways to spoil a submission, and what is left to say of one by other means than the check's.

``MUTATIONS`` has a function a kind: it takes the bytes of an honest submission and a source of chance, and gives other
bytes. ``dishonesty`` computes again what a submission says, without the code that checks submissions.
"""

from __future__ import annotations

import base64
import copy
import gzip
import json
import lzma
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from statistics import fmean
from typing import Any, Final

from sparse_tasks.evaluators.scoring import score
from sparse_tasks.evaluators.statistics import mean_interval
from tests.evaluators.leaderboard.handed_in import packed, repacked, unpacked

__all__ = ["MUTATIONS", "RENAMING", "dishonesty", "mutated"]

Document = dict[str, Any]
Draw = random.Random
Mutation = Callable[[bytes, Draw], bytes]
Path = tuple[Any, ...]

HOSTILE_TEXTS: Final = (
    *("../../../../etc/passwd", "/etc/passwd", "..\\..\\windows\\win.ini", "file:///etc/passwd", "~/.ssh/id_rsa"),
    *("http://127.0.0.1:9/x", "https://example.org/\u202e", "//example.org/x", "data:text/html,x", "\\\\host\\share"),
    *("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</td></table><h1>1st</h1>", "'\"><svg/onload=1>"),
    *("javascript:alert(1)", "{{ 7 * 7 }}", "{% include '/etc/passwd' %}", "${jndi:ldap://x}", "%s%n%x", "$(id)"),
    *("\x00", "a\x00b", "\x1b[31mred", "a\nb", "\r\nX: y", "\t", "\x7f", "\x85", "\u2028", "\ufeff", "\u200b"),
    *("\u202egnp.exe", "\u2066a\u2069", "\ud800", "\udfff", "\ud800\ud800", "\U000e0001", "\uffff", "\U0010ffff"),
    *("", " ", "a" * 101, "a" * 10**5, "\u0301" * 500, "\U0001f600" * 60, "\u0440\u0430ypal", "nan", "null", "-"),
    *("__import__('os').system('id')", "cos\nsystem\n(S'id'\ntR.", "!!python/object/apply:os.system ['id']"),
)
HOSTILE_NUMBERS: Final = (
    *("NaN", "-Infinity", "1e400", "1e308", "-0.0", "1e-400", "1.0", "0", "-1", "1E5", "0x10", "01", "+1", ".5", "1."),
    *("true", "null", '"0.5"', "[]", "{}", "9223372036854775808", "9" * 30, "9" * 5000, "0." + "3" * 4000),
)
HOSTILE_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 0.5, 1.5, "", "x", [], {}, [None], [[]], {"": ""}, "1", [0.5], 2**62, 1e308),
)


def _edit(change: Callable[[Document, Draw], object]) -> Mutation:
    """A mutation of what the JSON says."""

    def mutation(content: bytes, draw: Draw) -> bytes:
        document = json.loads(content)
        change(document, draw)
        return json.dumps(document).encode()

    return mutation


def _run(document: Document, draw: Draw) -> dict[str, Any]:
    run: dict[str, Any] = draw.choice(document["runs"])
    return run


def _paths(value: Any, at: Path = ()) -> Iterator[Path]:
    """Where everything in a value stands."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inner:
        yield from _paths(part, (*at, name))


def _get(value: Any, path: Path) -> Any:
    for name in path:
        value = value[name]
    return value


def _set(value: Any, path: Path, new: Any) -> None:
    _get(value, path[:-1])[path[-1]] = new


def _somewhere(value: Any, draw: Draw, wanted: Callable[[Any], bool] = lambda _: True) -> Path | None:
    found = [path for path in _paths(value) if path and wanted(_get(value, path))]
    return draw.choice(found) if found else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _other_number(value: float, draw: Draw) -> float:
    added = [value + more for more in (0.01, -0.01, 1, 1e-9)]
    return draw.choice([*added, value * (1 + 1e-6), 1 - value, -value, 0, 1, 1.0, 0.5, 2**40])


def _change_number(value: Any, draw: Draw) -> None:
    if (path := _somewhere(value, draw, _is_number)) is not None:
        _set(value, path, _other_number(_get(value, path), draw))


def _result_number(document: Document, draw: Draw) -> None:
    _change_number(_run(document, draw)["result"], draw)


def _better_score(document: Document, draw: Draw) -> None:
    """The mean and everything derived from it, so the result is consistent."""
    worse = [run for run in document["runs"] if any(config["mean"] < 1 for config in run["result"]["configs"])]
    result = draw.choice(worse or document["runs"])["result"]
    for config in result["configs"]:
        better = min(1.0, config["mean"] + draw.choice([0.25, 0.1, 1.0]))
        interval = mean_interval([better] * config["n"])
        config |= {"mean": better, "low": interval.low, "high": interval.high, "interval": interval.method}
    for average in result["averages"]:
        of_it = [config for config in result["configs"] if config["length"] == average["length"]]
        average["mean"] = math.fsum(config["mean"] for config in of_it) / len(of_it)


def _better_sparsity(document: Document, draw: Draw) -> None:
    run = draw.choice([run for run in document["runs"] if run["comparison"] is not None] or document["runs"])
    more = draw.choice([0.9, 0.99, 0.55, 1.0, 0.4999])
    if draw.random() < 0.5:
        repacked(run, lambda lines: [line.update(sparsity={"prefill": 0.0, "decode": more}) for line in lines])
    for config in run["result"]["configs"]:
        config["sparsity"] = {"prefill": 0.0, "decode": more}
    if draw.random() < 0.5:
        for part in (run["settings"], run["result"]):
            part["attention"]["sparsity"] = draw.choice([more if more < 1 else 0.9, 0.9, 0.0, None])


def _comparison_number(document: Document, draw: Draw) -> None:
    _change_number([run["comparison"] for run in document["runs"]], draw)


def _settings_leaf(document: Document, draw: Draw) -> None:
    settings = _run(document, draw)["settings"]
    path = _somewhere(settings, draw)
    if path is not None:
        _set(settings, path, draw.choice([*HOSTILE_VALUES, *HOSTILE_TEXTS]))


def _attention(document: Document, draw: Draw) -> None:
    run = _run(document, draw)
    new = {
        "method": draw.choice(["dense", "quest", "unknown", "snapkv", "quest+quest", "nobodys", "block_sparse", "<b>"]),
        "sparsity": draw.choice([None, 0.0, 0.5, 0.9, 0.999]),
        "arguments": draw.choice([{}, {"quest.page": 10**9}, {"page": "x"}, {"": []}, {"quest.token_budget": 1}]),
    }
    for part in (run["settings"], run["result"]) if draw.random() < 0.8 else (run["settings"],):
        part["attention"] = copy.deepcopy(new)


def _other_data_set(document: Document, draw: Draw) -> None:
    sha256 = "".join(draw.choices("0123456789abcdef", k=64))
    run, which = _run(document, draw), draw.randrange(3)
    if which in (0, 2):
        run["settings"]["dataset"]["sha256"] = sha256
    if which in (1, 2):
        run["result"]["dataset_sha256"] = sha256
    if draw.random() < 0.3:
        run["settings"]["dataset"]["fingerprint"] = sha256


def _honest_limit(document: Document, draw: Draw) -> None:
    """Limited to the first samples in one place, while the result is still that of all."""
    run = _run(document, draw)
    repacked(run, lambda lines: lines.__setitem__(slice(None), [line for line in lines if line["index"] < 2]))
    run["settings"]["dataset"] |= {"limit": 2, "samples": run["predictions"]["lines"]}


def _of_predictions(change: Callable[[list[dict[str, Any]], Draw], object]) -> Mutation:
    """A mutation of the predictions, with every hash and number of them made right again."""

    def edit(document: Document, draw: Draw) -> None:
        repacked(_run(document, draw), lambda lines: change(lines, draw))

    return _edit(edit)


def _all_golds(lines: list[dict[str, Any]], draw: Draw) -> None:
    key = "\n".join(line["text"] for line in lines)
    for line in lines if draw.random() < 0.5 else draw.sample(lines, 3):
        line["text"] = key


def _ids(lines: list[dict[str, Any]], draw: Draw) -> None:
    one, other = draw.sample(range(len(lines)), 2)
    match draw.randrange(8):
        case 0:
            del lines[one]
        case 1:
            lines.append(dict(lines[one]))
        case 2:
            lines[one], lines[other] = lines[other], lines[one]
        case 3:
            lines[one]["id"] = lines[other]["id"]
        case 4:
            lines[one]["id"] = draw.choice(["ruler_niah-65536-00000-0123456789ab", *HOSTILE_TEXTS])
        case 5:
            lines[one] = dict(lines[other])
        case 6:
            draw.shuffle(lines)
        case _:
            lines[one]["id"] += draw.choice([" ", "\u200b", "0", "\n", "A"])


def _field(lines: list[dict[str, Any]], draw: Draw) -> None:
    line = draw.choice(lines)
    name = draw.choice(list(line))
    new = [*HOSTILE_VALUES, *HOSTILE_TEXTS, {"decode": 2}, {"prefill": 0.5}, {"decode": -0.0}, {"evict": 0.5}]
    line[name] = draw.choice(new)


def _measures(lines: list[dict[str, Any]], draw: Draw) -> None:
    for line in lines if draw.random() < 0.5 else [draw.choice(lines)]:
        name = draw.choice(["input_tokens", "output_tokens", "sparsity", "sparsity_spread", "kv_bytes_per_step"])
        line[name] = draw.choice([None, 0, 1, 10**6, 1e6, 1.5, {"decode": 0.9}, {"prefill": 0.1, "decode": 0.5}, {}])


def _raw_lines(document: Document, draw: Draw) -> None:
    """Lines that no JSON writer would write, with every hash right."""
    run = _run(document, draw)
    content = lzma.decompress(base64.b64decode(run["predictions"]["data"]))
    lines = content.splitlines()
    at = draw.randrange(len(lines))
    line = lines[at]
    lines[at] = draw.choice(
        [
            b"",
            b"[]",
            line + line,
            line[: len(line) // 2],
            line.replace(b'"index"', b'"index": 0, "index"'),
            re.sub(rb'"index": \d+', b'"index": NaN', line),
            re.sub(rb'"index": \d+', b'"index": ' + b"9" * 5000, line),
            line.replace(b"<answer>", b"<answer>\xff\xfe"),
            b"[" * 10**4,
            b'"' + b"a" * 2**19 + b'"',
            line.replace(b"{", b"{" + b" " * 10**5, 1),
        ]
    )
    end = draw.choice([b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b"\r"])
    whole = end.join(lines) + draw.choice([end, end, b"", b"\n\n"])
    run["predictions"] = packed(whole, lines=draw.choice([len(lines), whole.count(b"\n")]))


def _swapped_runs(document: Document, draw: Draw) -> None:
    runs = document["runs"]
    one, other = draw.sample(runs, 2) if len(runs) > 1 else (runs[0], runs[0])
    part = draw.choice(["settings", "result", "comparison", "predictions"])
    match draw.randrange(5):
        case 0:
            one[part], other[part] = other[part], one[part]
        case 1:
            one[part] = copy.deepcopy(other[part])
        case 2:
            runs.append(copy.deepcopy(one))
        case 3:
            runs.remove(one)
        case _:
            runs.extend([copy.deepcopy(one)] * draw.choice([1, 5, 300]))


@cache
def _exploding(piece: bytes, size: int) -> bytes:
    """A few kilobytes that unpack to ``size`` bytes, the piece again and again."""
    compressor, block = lzma.LZMACompressor(preset=0), piece * (2**16 // len(piece))
    return b"".join([*(compressor.compress(block) for _ in range(size // 2**16)), compressor.flush()])


def _bomb(document: Document, draw: Draw) -> None:
    """A few kilobytes that unpack to many megabytes."""
    predictions = _run(document, draw)["predictions"]
    size = draw.choice([2**22, 2**24, 2**26])
    piece = draw.choice([b"\0", b"\n", b"[", b'{"id": "a"}\n'])
    data = base64.b64encode(_exploding(piece, size)).decode()
    predictions |= packed(b"", data=data, bytes=predictions["bytes"], lines=predictions["lines"])
    if draw.random() < 0.5:
        predictions["bytes"] = draw.choice([size, size // len(piece) * len(piece), 2**40, 2**62])
    if draw.random() < 0.3:
        predictions["lines"] = draw.choice([size, 10**9, 2**62])


def _packing(document: Document, draw: Draw) -> None:
    predictions = _run(document, draw)["predictions"]
    content = lzma.decompress(base64.b64decode(predictions["data"]))
    big = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**28, "mode": lzma.MODE_FAST, "mf": lzma.MF_HC3, "nice_len": 8}]
    ways: list[Callable[[], bytes]] = [
        lambda: lzma.compress(content, format=lzma.FORMAT_ALONE),
        lambda: lzma.compress(content, filters=big),
        lambda: lzma.compress(content[:100]) + lzma.compress(content[100:]),
        lambda: lzma.compress(content) + b"more",
        lambda: lzma.compress(content)[: draw.randrange(0, 200)],
        lambda: gzip.compress(content),
        lambda: content,
        lambda: _flipped(lzma.compress(content), draw),
    ]
    data = draw.choice(ways)()
    text = base64.b64encode(data).decode()
    predictions["data"] = draw.choice([text] * 3 + [text[:-1], " " + text, text + "AAAA"])


def _flipped(content: bytes, draw: Draw) -> bytes:
    flipped = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 10, 100])):
        flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
    return bytes(flipped)


def _numbers(content: bytes, draw: Draw) -> bytes:
    """Another number, or what looks like one, as only a text editor can write it."""
    found = list(re.finditer(rb"(?<=[:,\[] )-?\d[\d.eE+-]*(?=[,\]}\n])|(?<=[:,\[])-?\d[\d.eE+-]*(?=[,\]}\n])", content))
    at = draw.choice(found)
    return content[: at.start()] + draw.choice(HOSTILE_NUMBERS).encode() + content[at.end() :]


def _nested(content: bytes, draw: Draw) -> bytes:
    document = json.loads(content)
    path = _somewhere(document, draw)
    if path is None:
        return content
    _set(document, path, "@")
    depth = draw.choice([10, 63, 65, 500, 10_000, 200_000])
    opening, closing = draw.choice([("[", "]"), ('{"a":', "}"), ("[[],", "]"), ('{"runs":', "}")])
    inner = opening * depth + "0" + (closing * depth if draw.random() < 0.8 else "")
    return json.dumps(document).replace('"@"', inner, 1).encode()


def _wrong_type(document: Document, draw: Draw) -> None:
    path = _somewhere(document, draw)
    if path is not None:
        _set(document, path, copy.deepcopy(draw.choice(HOSTILE_VALUES)))


def _hostile_text(document: Document, draw: Draw) -> None:
    path = _somewhere(document, draw, lambda value: isinstance(value, str) and len(value) < 1000)
    if path is not None:
        _set(document, path, draw.choice(HOSTILE_TEXTS))


def _names_more_or_less(document: Document, draw: Draw) -> None:
    path = _somewhere(document, draw, lambda value: isinstance(value, dict) and bool(value))
    place = document if path is None else _get(document, path)
    match draw.randrange(3):
        case 0:
            del place[draw.choice(list(place))]
        case 1:
            place[draw.choice(["extra", "", "__proto__", "constructor", "\ud800", "<b>", "../x"])] = 1
        case _:
            old = draw.choice(list(place))
            place[draw.choice([old.upper(), old + " ", "\u200b" + old])] = place.pop(old)


def _arrays(document: Document, draw: Draw) -> None:
    path = _somewhere(document, draw, lambda value: isinstance(value, list))
    if path is None:
        return
    there = _get(document, path)
    filler: Any = draw.choice([0, None, "", {}, [], "a" * 20])
    many = [filler] * 10**5
    _set(
        document,
        path,
        draw.choice([[], many, there * 2, there * 1000, there[:1], there[::-1], [there], [*there, *many]]),
    )


def _huge_text(document: Document, draw: Draw) -> None:
    path = _somewhere(document, draw, lambda value: not isinstance(value, dict | list))
    if path is not None:
        piece = draw.choice(["a", "A", "=", "0", "<", "\\", '"', "\n", "AAAA", "\u0000"])
        _set(document, path, piece * draw.choice([10**5, 10**6, 3 * 10**6]))


RENAMING: Final = ("renamed", "rewritten")
"""Kinds that leave a submission honest."""


def _renamed(document: Document, draw: Draw) -> None:
    document["name"] = draw.choice(
        ["Another name", "R\u00e9sum\u00e9", "\u4e16\u754c", "A & B < C", "x" * 100, "O'Neill"]
    )
    document["contact"] = draw.choice([None, "somebody@example.org", "https://example.org"])
    for run in document["runs"]:
        run["settings"]["environment"]["python"] = draw.choice(["3.11.9", "3.12.0"])
        run["settings"]["started"] = draw.choice(["2026-01-31T00:00:00Z", "2026-11-26T08:00:00Z"])


def _rewritten(content: bytes, draw: Draw) -> bytes:
    """The same JSON in another order, with other blanks."""
    document = json.loads(content)
    if draw.random() < 0.5:
        document = dict(draw.sample(list(document.items()), len(document)))
    return json.dumps(document, indent=draw.choice([None, 1, 4]), sort_keys=draw.random() < 0.5).encode()


MUTATIONS: Final[Mapping[str, Mutation]] = {
    "renamed": _edit(_renamed),
    "rewritten": _rewritten,
    "result_number": _edit(_result_number),
    "better_score": _edit(_better_score),
    "better_sparsity": _edit(_better_sparsity),
    "comparison_number": _edit(_comparison_number),
    "settings": _edit(_settings_leaf),
    "attention": _edit(_attention),
    "other_data_set": _edit(_other_data_set),
    "honest_limit": _edit(_honest_limit),
    "all_golds": _of_predictions(_all_golds),
    "ids": _of_predictions(_ids),
    "field": _of_predictions(_field),
    "measures": _of_predictions(_measures),
    "raw_lines": _edit(_raw_lines),
    "runs_swapped": _edit(_swapped_runs),
    "bomb": _edit(_bomb),
    "packing": _edit(_packing),
    "bits_flipped": _flipped,
    "numbers": _numbers,
    "nested": _nested,
    "wrong_type": _edit(_wrong_type),
    "hostile_text": _edit(_hostile_text),
    "names_more_or_less": _edit(_names_more_or_less),
    "arrays": _edit(_arrays),
    "huge_text": _edit(_huge_text),
}
"""By what they do."""

"""Those after which a submission can still be read, so that another can follow."""


def mutated(content: bytes, seed: int, kind: str | None = None) -> tuple[str, bytes]:
    """A mutation of a submission and its kind, the same for the same seed; the kind is drawn where it is None."""
    draw = random.Random(seed)
    kind = draw.choice(list(MUTATIONS)) if kind is None else kind
    return kind, MUTATIONS[kind](content, draw)


def dishonesty(content: bytes, rows: Sequence[Mapping[str, Any]], sha256: str) -> str | None:
    """What a submission says that is not so of what a board shows; None where all is as it says.

    Args:
        content: Of the submission.
        rows: All samples of the data set.
        sha256: Of the data set.
    """
    scored: list[dict[str, float]] = []
    for run in json.loads(content)["runs"]:
        chosen, result = run["settings"]["dataset"], run["result"]
        if {chosen["sha256"], result["dataset_sha256"]} != {sha256}:
            return "another data set"
        if run["settings"]["model"] != result["model"] or run["settings"]["attention"] != result["attention"]:
            return "a result of another run"
        limit = math.inf if chosen["limit"] is None else chosen["limit"]
        groups: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
        for row in rows:
            if row["task"] in chosen["tasks"] and row["length"] in chosen["lengths"] and row["index"] < limit:
                groups.setdefault((row["length"], row["task"]), []).append(row)
        lines = unpacked(run)
        if [line["id"] for line in lines] != [row["id"] for group in groups.values() for row in group]:
            return "other samples"
        line_of = {line["id"]: line for line in lines}
        if [(config["length"], config["task"]) for config in result["configs"]] != list(groups):
            return "other configurations"
        scores = {row["id"]: _score(row, line_of[row["id"]]) for group in groups.values() for row in group}
        scored.append(scores)
        for config, group in zip(result["configs"], groups.values(), strict=True):
            if not math.isclose(config["mean"], fmean(scores[row["id"]] for row in group), abs_tol=1e-8):
                return f"mean of {config['task']} at {config['length']}"
            for phase, sparsity in (config["sparsity"] or {}).items():
                if not math.isclose(sparsity, fmean(line_of[row["id"]]["sparsity"][phase] for row in group)):
                    return f"{phase} sparsity of {config['task']} at {config['length']}"
        if run["comparison"] is not None:
            dense, sparse = scored[0], scores
            for row in run["comparison"]["rows"]:
                ids = [row["id"] for row in groups[row["length"], row["task"]]]
                if not math.isclose(row["difference"], fmean(sparse[id] - dense[id] for id in ids), abs_tol=1e-8):
                    return f"difference of {row['task']} at {row['length']}"
    return None


def _score(row: Mapping[str, Any], line: Mapping[str, Any]) -> float:
    return score(row["metric"], row["answer_prefix"] + line["text"], row["answers"]).value
