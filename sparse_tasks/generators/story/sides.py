"""A story of which all kinds of questions can be asked: facts, neighbours, exceptions, sums and extremes."""

from __future__ import annotations

from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.words import materials
from sparse_tasks.generators.story.world import Demand, Plan

_FIRST = 100  # maximum of the first chapter's number, since small numbers could be guessed
_MISLEADING = ("Seen", "Asked", "Hearsay")


def many_sided(
    stream: Stream, chapters: int, locale: str, distractors: int, language: str, *, events: int, gifts: int
) -> Plan:
    """The plan of a story in which one thing is acquired in every chapter.

    Args:
        stream: Draws.
        chapters: Their number, at least ``smallest_story``.
        locale: Where names come from.
        distractors: Mean number of other events a chapter.
        language: Its code.
        events: Things of one material that are bought, and as many that are only told of; meetings with the person who
            is met most.
        gifts: Chapters in which the thing is a gift.
    """
    order = stream.sample(range(chapters), chapters)
    given, bought = set(order[:gifts]), order[gifts:]
    plan = Plan(
        ["GiftReceived" if i in given else "Purchase" for i in range(chapters)],
        locale,
        distractors,
        gifts=False,
        first=stream.between(1, _FIRST),
        language=language,
    )
    plan.reserved = stream.choice(materials(language))
    plan.reserved_acquisitions = set(bought[:events])
    for _ in range(events):
        plan.demands.setdefault(stream.below(chapters), []).append(Demand(stream.choice(_MISLEADING)))
    plan.dearest = stream.choice(bought)
    plan.company = company(stream, chapters, events)
    return plan


def smallest_story(events: int, gifts: int) -> int:
    """The fewest chapters of such a story."""
    return max(events, 1) + gifts + 1


def company(stream: Stream, chapters: int, most: int) -> list[int]:
    """For each chapter the number of the person met; 0 is met ``most`` times, all others less often."""
    people, person = [0] * most, 0
    while len(people) < chapters:
        person += 1
        people += [person] * stream.between(1, max(most - 1, 1))
    people = people[:chapters]
    stream.shuffle(people)
    return people
