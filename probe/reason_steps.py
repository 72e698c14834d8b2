"""Steps of tasks with long answers and of copies: the facts from the context, before the answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from sparse_tasks.generators.reason import execute, sort, walk
from sparse_tasks.generators.reason.sentences import Grammars
from sparse_tasks.generators.story.reader import read

Sample = Mapping[str, Any]

_SIGNS: Final = {"Purchase": "-", "Sale": "+", "Wage": "+"}
_CARRIED: Final = {"Purchase": "+", "GiftReceived": "+", "Sale": "-", "GiftGiven": "-"}


def _ledger(sample: Sample) -> list[str]:
    """The initial purse, and the changes in each chapter that has any."""
    story = read(sample["prompt"])
    lines = [str(story.setting_out.amount)]
    for page in story.pages:
        changes = []
        for fact in page.facts:
            changes += [f"{_SIGNS[fact.kind]}{fact.amount}"] if fact.kind in _SIGNS else []
            changes += [f"{_CARRIED[fact.kind]} {fact.thing}"] if fact.kind in _CARRIED else []
        lines += [f"Chapter {page.number}: {', '.join(changes)}"] if changes else []
    return lines


def _walk(sample: Sample) -> list[str]:
    """The roads of each place, in search order."""
    start, backwards = _matched(r"(From which|Which) places can (?:(.+) be reached|be reached from (.+?)), and", sample)
    leads: dict[str, list[str]] = {}
    for slots in _lines(sample, "roads", walk):
        here, there = (slots["end"], slots["start"]) if backwards else (slots["start"], slots["end"])
        leads.setdefault(here, []).append(there)
    reached = [start, *(answer.rpartition(":")[0] for answer in sample["answers"])]
    return [f"{place}: {', '.join(leads.get(place, ['none']))}" for place in reached]


def _matched(pattern: str, sample: Sample) -> tuple[str, bool]:
    found = _asked(pattern, sample)
    return found[2] or found[3], found[2] is not None


def _sort(sample: Sample) -> list[str]:
    """The events in text order."""
    years = {answer.rpartition(": ")[2]: answer for answer in sample["answers"]}
    told = [f"{slots['place']}: {slots['year']}" for slots in _lines(sample, "chronicle", sort)]
    return [line for line in told if years.get(line.rpartition(": ")[2]) == line]


def _execute(sample: Sample) -> list[str]:
    """Each box that is opened, its number, the sum that leads to the next, and the total that grows."""
    held = {int(slots["box"]): int(slots["number"]) for slots in _lines(sample, "boxes", execute)}
    box, lines = int(_asked(r"^ +box = (\d+)$", sample)[1]), []
    totals = dict(re.findall(r"^ +([a-h]) = (\d+)$", sample["question"], re.M))
    for answer in sample["answers"]:
        line, there = f"{box}: {held[box]}, {box} + {held[box]} = {box + held[box]}", box + held[box]
        if there > len(held):
            line, there = f"{line}, {there} - {len(held)} = {there - len(held)}", there - len(held)
        for name, after in zip(totals, answer.partition(": ")[2].split(", "), strict=True):
            if after != totals[name]:
                line += f", {name}: {totals[name]} + {held[box]} = {after}"
                totals[name] = after
        lines.append(line)
        box = there
    return lines


def _copy(sample: Sample) -> list[str]:
    """The first line of each piece with the heading, up to the requested one."""
    found = _asked(r'pieces with the heading "(.+)"\. Copy number (\d+) of them', sample)
    firsts = re.findall(rf"^{re.escape(found[1])}\n\n(.+)\n", sample["prompt"], re.M)
    return [f"{number}. {first}" for number, first in enumerate(firsts[: int(found[2])], 1)]


def _lines(sample: Sample, grammar: str, task: Any) -> Iterator[dict[str, str]]:
    for _, slots in Grammars(grammar).read(sample["prompt"], task._INTRO, task._END):
        yield slots


def _asked(pattern: str, sample: Sample) -> re.Match[str]:
    match = re.search(pattern, sample["question"], re.M)
    if match is None:
        raise ValueError(f"no question like {pattern!r} in {sample['question']!r}")
    return match


STEPS: Final[dict[str, Callable[[Sample], list[str]]]] = {
    "reason_ledger": _ledger,
    "reason_walk": _walk,
    "reason_sort": _sort,
    "reason_execute": _execute,
    "copy_nth": _copy,
}
