"""Words around an answer: those that do not change it, and signs of words that do.

The former are lists of what is allowed: there is always one more way to deny ("left out", "ruled out", "excluded",
"without discount"), and anything not in a list remains part of the answer, which is then wrong. The latter only remove
credit, where a denied list would otherwise be partly right.
"""

from __future__ import annotations

import re
from typing import Final

_CALLED: Final = """
answer chapter number word variable name value key uuid person people place thing item total sum count amount result
solution entry entries option choice letter list
"""
_NOUN: Final = rf"(?:(?:chapter|variable)\s)?(?:{'|'.join(_CALLED.split())})"
# "The numbers of these chapters"; the number of the chapters is another number.
_OF: Final = r"(?:s\sof\s(?:the|these)\s(?:chapter|variable|key)s|\sof\s(?:the|this)\s(?:chapter|variable|key)|s?)"
_WHICH: Final = (
    "final|correct|right|full|requested|following|secret|[0-9]{1,2}|two|three|four|five|six|seven|eight|nine|ten"
)
# The chapters that ``story_filtering`` asks for.
_UNBOUGHT: Final = (
    r"(?:nothing\s(?:(?:is|was)\s)?(?:bought|purchased)"
    r"|no\s(?:items?|things?)\s(?:(?:is|are|was|were)\s)?(?:bought|purchased)"
    r"|no\spurchases?(?:\s(?:is|are|was|were)\smade)?"
    r"|(?:he|she)\s(?:buys|bought)\snothing)"
)
_WITHOUT: Final = r"without\s(?:an?\s|any\s)?purchases?"
_THAT: Final = rf"(?:\s(?:{_WITHOUT}|with\sno\spurchases?|(?:in\swhich|where)\s{_UNBOUGHT}))?"
_NAMED: Final = rf"(?:(?:the|these|my)\s)?(?:(?:{_WHICH})\s){{0,2}}{_NOUN}{_OF}{_THAT}"
_SO: Final = r"\s*[*_]*(?:(?:so|thus|hence|therefore),?\s)?"
_POINTING: Final = r"(?:it|they|this|that|these|those|here)\s(?:is|are)"
_ARE: Final = rf"(?:{_NAMED}\s(?:is|are)|{_POINTING})\b:?(?=\s)"
_COLON: Final = r"[*_ ]*[:\uff1a=][*_]*(?=.)"

# The same in German, Spanish and Chinese. As above, the number of the chapters is another number than theirs.
_GERMAN: Final = (
    r"(?:(?:die|der|das|meine)\s)?(?:(?:endgültige|richtige|gesuchte|volle)[nrs]?\s)?"
    r"(?:(?:nummern?|kapitelnummern?)(?:\s(?:dieser|dieses|der|des)\skapitels?)?|antwort(?:en)?|zahl(?:en)?|ergebnis|lösung"
    r"|(?:gesamt)?summe|gesamtzahl|gesamtbetrag|person(?:en)?|orte?|gegenst(?:and|ände)"
    r"|namen?(?:\s(?:der\sperson|des\sortes|des\sgegenstands|der\sgegenstände))?"
    r"|kapitel(?:,?\s(?:ohne\s(?:einen\s)?kauf|in\sdenen\s(?:(?:er|sie)\snichts\skaufte?|nichts\sgekauft\sw[iu]rde?)),?)?)"
)
_SPANISH: Final = (
    r"(?:(?:el|la|los|las|mi)\s)?"
    r"(?:n[uú]meros?(?:\sde\s(?:esos|estos)\scap[ií]tulos)?|n[uú]mero\sde(?:\sese|\seste|l)\scap[ií]tulo"
    r"|respuestas?|personas?|lugar(?:es)?|objetos?|(?:suma\s)?total|suma|resultado"
    r"|nombres?(?:\scompletos?)?(?:\s(?:de\sla\spersona|del\s(?:lugar|objeto)|de\slos\sobjetos))?"
    r"|cap[ií]tulos?(?:\s(?:sin\scompras|en\s(?:los\s)?que\sno\s(?:se\s)?compra\snada))?)"
    r"(?:\s(?:final|correct[ao]))?"
)
_CHINESE: Final = (
    r"(?:最终|正确)?的?(?:这些|这一|这个|那个|这件|那件|该)?"
    r"(?:(?:章节|章|物品|东西|人|地方)的)?"
    r"(?:答案|章节|章|编号|章节编号|结果|总数|总和|总额|物品名?|物品名称|名称|名字|东西|人|人名|全名|姓名|地方|地点|地名)(?:的编号)?"
)
# Words that do not change a number after them.
_IN_ALL: Final = (
    r"(?:insgesamt|zusammen|en\stotal)[:,]?\s(?:(?:sind\ses|son)\s)?(?=[0-9])"
    r"|(?:总共|一共|共计|合计|总计|共)(?:付了|花了|是|为)?\s*[:\uff1a]?\s*(?=[0-9])"
)
_ELSEWHERE: Final = (
    rf"(?:(?:{_GERMAN}|{_SPANISH}){_COLON}|{_GERMAN}\s(?:ist|sind|lautet|lauten|beträgt|heißt):?(?=\s)"
    r"|(?:es|das|dies)\s(?:ist|sind):?(?=\s)"
    rf"|{_SPANISH}\s(?:es|son)(?:\sde)?:?(?=\s)|(?:es|son)\s(?=(?:el|la|los|las|un|una)\s)"
    rf"|(?:{_CHINESE}|[这那它他她]|)\s*(?:分别)?(?:是|为|叫)?\s*[:\uff1a]?(?<=[是为叫:\uff1a])(?=.)|{_IN_ALL})"
)

ANNOUNCED: Final = re.compile(rf"{_SO}(?:{_NAMED}{_COLON}|{_ARE}|{_ELSEWHERE})", re.IGNORECASE | re.DOTALL)
"""Matches the words before an answer: "The chapters are", "Answer:"."""
ANNOUNCED_PAIRS: Final = re.compile(
    rf"{_SO}(?:(?:final\s)?answers?{_COLON}|{_ARE}|(?:(?:die\s)?antwort(?:en)?|(?:las?\s)?respuestas?){_COLON}"
    r"|(?:die\s)?antwort(?:en)?\s(?:ist|sind|lauten?t?):?(?=\s)|(?:las?\s)?respuestas?\s(?:es|son):?(?=\s)"
    r"|答案(?:是|为)?\s*[:\uff1a]?(?<=[是为:\uff1a])(?=.))",
    re.IGNORECASE | re.DOTALL,
)
"""The same before an answer of pairs, of which "value: 46" may be one."""
IT_IS: Final = re.compile(r"\s*(?:[Ee]s|[Ss]on)\s(?=[A-ZÁÉÍÓÚÑ0-9])")
"""Matches "Es" before a Spanish answer; in another language it may begin a name."""
HEADING: Final = re.compile(rf"[*_ ]*{_NAMED}[*_: ]*", re.IGNORECASE)
"""Matches the whole heading of a column."""
HEADING_LINE: Final = re.compile(
    rf"{_SO}(?:(?:{_POINTING}\s)?{_NAMED}(?:\s(?:is|are))?|{_POINTING}|{_GERMAN}(?:\s(?:ist|sind|lauten?t?))?"
    rf"|{_SPANISH}(?:\s(?:es|son))?|{_CHINESE}(?:分别)?(?:是|为)?)\s?[:\uff1a]",
    re.IGNORECASE,
)
"""Matches a whole line that announces those below."""
AFFIRMED: Final = re.compile(
    rf"{_UNBOUGHT}|{_WITHOUT}|nichts\sgekauft|kein\skauf|ohne\skauf|(?:er|sie)\skauft(?:e)?\snichts"
    r"|no\scompr(?:a|ó)\snada|nada\scomprado|sin\scompras?|(?:什么)?(?:也)?(?:没有|没)(?:买|购买)(?:东西|任何东西)?",
    re.IGNORECASE,
)
"""Matches a whole comment on a chapter that says no more than the question."""

_DENYING: Final = """
not none nor neither never nothing but except excepting excluding exclude excludes without unlike besides barring minus
than skip skipping omit omitting cannot can't don't doesn't didn't
"""
_DENYING_ELSEWHERE: Final = """
nicht kein keine keiner keines weder noch niemals ausser ohne ninguno ninguna ningún ni nunca excepto salvo sin
"""
_LEAVING_OUT: Final = "or oder no not excluded left ruled out ausgeschlossen ausgenommen falsch excluidos descartados"
DENYING: Final = frozenset(f"{_DENYING} {_DENYING_ELSEWHERE}".split())
"""Words that deny what stands behind them."""
BEFORE: Final = DENYING | frozenset(
    [*_LEAVING_OUT.split(" "), "is", "are", "was", "were", "isn't", "aren't", "ist", "sind"]
)
"""Words before an entry with which a sentence says something of it."""
BEHIND: Final = frozenset([*_LEAVING_OUT.split(" "), "are", "were", "aren't", "weren't", "sind", "waren"])
"""Words behind the last of several entries with which a sentence says something of them."""
LINKS: Final = frozenset({"of", "for", "the", "these", "those", "any"})
"""Words that may stand between the former and the entry."""
ABSENT: Final = frozenset({"none", "nothing", "not found", "not given", "not mentioned", "not stated"})
"""Entries that say of themselves alone that there is no answer."""
DENIED_IN_CHINESE: Final = re.compile("(?:不|没|非|并非|除|别)..|.*(?:除外|以外|之外|都不是|都不算|都错)$")
"""Matches an entry that denies others in Chinese, where no blank tells words apart."""
ABSENT_IN_CHINESE: Final = re.compile("(?:没有|未|不)?(?:提到|提及|说明|知道|详|清楚)")
"""Matches a whole entry that says of itself alone that there is no answer."""
