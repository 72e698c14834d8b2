"""Answers in the languages of the tasks are read by the same rules as English ones."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest

from sparse_tasks.evaluators.answers import normalise
from sparse_tasks.evaluators.scoring import score
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.language import language, languages
from sparse_tasks.generators.story.words import Things
from tests.generators.drafts import draft_of

CHAPTERS = ["3", "17", "42"]
SPENT = {code: draft_of("story_aggregation", "spent", 10, language=code, kind="spent").question for code in languages()}
"""A question for a sum, by language."""


@pytest.mark.parametrize(
    "answer",
    [
        "3, 17, 42",
        "Kapitel 3, Kapitel 17 und Kapitel 42",
        "3, 17 und 42",
        "Die Kapitel sind 3, 17, 42.",
        "Die Nummern dieser Kapitel sind: 3, 17, 42",
        "Antwort: 3, 17, 42",
        "Kapitel 3: nichts gekauft\nKapitel 17: nichts gekauft\nKapitel 42: kein Kauf",
        "Capítulo 3, capítulo 17 y capítulo 42",
        "3, 17 y 42",
        "Los capítulos son 3, 17, 42.",
        "Respuesta: 3, 17, 42",
        "Capítulo 3: no compra nada\nCapítulo 17: no compró nada\nCapítulo 42: sin compras",
        "In den Kapiteln 3, 17 und 42.",
        "Kapitel Nr. 3, 17 sowie 42",
        "Die Kapitel ohne Kauf sind 3, 17 und 42.",
        "Das sind die Kapitel 3, 17 und 42.",
        "En los capítulos 3, 17 y 42.",
        "Son los capítulos 3, 17 y 42.",
        "Los capítulos en los que no compra nada son 3, 17 y 42.",
        "n.º 3, n.º 17, n.º 42",
        "3、17、42",
        "第3、17、42章",
        "第3、第17、第42章",
        "第三章、第十七章、第四十二章",
        "三、十七、四十二",
        "３、１７、４２",
        "【3、17、42】",
        "（3，17，42）",
        "章节编号：3、17、和42",
        "分别是第3章、第17章和第42章。",
        "3，17，42。",
        "第3章、第17章和第42章",
        "第3章、第17章、第42章",
        "答案是3、17、42。",
        "答案：3，17，42",
        "第3章：没有买东西\n第17章：什么也没有买\n第42章：没买",
    ],
)
def test_chapters_are_read(answer: str) -> None:
    assert score("set_iou", f"<answer>{answer}</answer>", CHAPTERS).value == 1.0


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("der Wiener Kamm aus Horn", "Wiener Kamm aus Horn"),
        ("Einen Wiener Kamm aus Horn.", "Wiener Kamm aus Horn"),
        ("Die Antwort ist Wiener Kamm aus Horn.", "Wiener Kamm aus Horn"),
        ("„Wiener Kamm aus Horn“", "Wiener Kamm aus Horn"),
        ("la tetera de cobre gastada", "tetera de cobre gastada"),
        ("El objeto es: una tetera de cobre gastada", "tetera de cobre gastada"),
        ("一把云纹黄铜茶壶", "云纹黄铜茶壶"),
        ("那把云纹黄铜茶壶。", "云纹黄铜茶壶"),
        ("答案是云纹黄铜茶壶", "云纹黄铜茶壶"),
        ("「云纹黄铜茶壶」", "云纹黄铜茶壶"),
        ("467 Kronen", "467"),
        ("467 coronas.", "467"),
        ("467枚铜元", "467"),
        ("４６７枚铜元。", "467"),
        ("Die Summe ist 467", "467"),
        ("La suma es 467.", "467"),
        ("总数为467", "467"),
        ("Insgesamt 467 Kronen.", "467"),
        ("Die Gesamtsumme beträgt 467 Kronen.", "467"),
        ("467,00 Kronen", "467"),
        ("467 coronas en total", "467"),
        ("La suma total es de 467 coronas.", "467"),
        ("总共付了467枚铜元。", "467"),
        ("四百六十七枚铜元", "467"),
        ("四六七", "467"),
        ("一万零三百二十", "10320"),
        ("In Kleinbach.", "Kleinbach"),
        ("Der Ort heißt Kleinbach.", "Kleinbach"),
        ("Es ist der Wiener Kamm aus Horn.", "Wiener Kamm aus Horn"),
        ("»Wiener Kamm aus Horn«", "Wiener Kamm aus Horn"),
        ("‚Wiener Kamm aus Horn‘", "Wiener Kamm aus Horn"),
        ("Der volle Name der Person ist Otto Meier.", "Otto Meier"),
        ("«tetera de cobre gastada»", "tetera de cobre gastada"),
        ("Es la tetera de cobre gastada.", "tetera de cobre gastada"),
        ("¡Tetera de cobre gastada!", "tetera de cobre gastada"),
        ("El nombre completo de la persona es Ana Gil.", "Ana Gil"),
        ("Con Ana Gil.", "Ana Gil"),
        ("En Villanueva.", "Villanueva"),
        ("《云纹黄铜茶壶》", "云纹黄铜茶壶"),
        ("『云纹黄铜茶壶』", "云纹黄铜茶壶"),
        ("1把 云纹黄铜茶壶", "云纹黄铜茶壶"),
        ("那件东西是云纹黄铜茶壶。", "云纹黄铜茶壶"),
        ("物品名：云纹黄铜茶壶", "云纹黄铜茶壶"),
        ("王 桂芳", "王桂芳"),
        ("这个人是王桂芳", "王桂芳"),
        ("到了柳塘", "柳塘"),
    ],
)
def test_single_answers_are_read(answer: str, gold: str) -> None:
    assert score("exact_match", f"<answer>{answer}</answer>", [gold]).value == 1.0


@pytest.mark.parametrize(("answer", "gold"), [("Es Ana Gil.", "Ana Gil"), ("Es 467.", "467"), ("Son 467", "467")])
def test_a_spanish_verb_announces_an_answer_only_in_spanish(answer: str, gold: str) -> None:
    asked = "¿Cuál es el nombre de la persona que compró la tetera en el mercado de la ciudad?"
    assert score("exact_match", f"<answer>{answer}</answer>", [gold], question=asked).value == 1.0
    for name in ("Son Heung-min", "ES 40"):
        assert score("exact_match", f"<answer>{name}</answer>", [name], question="Who is it?").value == 1.0
        assert score("exact_match", f"<answer>{name}</answer>", [name[4:]], question="Who is it?").value == 0.0


@pytest.mark.parametrize("code", ["de", "es"])
@pytest.mark.parametrize("answer", ["1.234", "1.234 Kronen", "1.234 coronas.", "1.234,00", "1234,00 Kronen", "1234"])
def test_points_group_digits_in_german_and_spanish_alone(code: str, answer: str) -> None:
    assert score("exact_match", f"<answer>{answer}</answer>", ["1234"], question=SPENT[code]).value == 1.0
    english = score("exact_match", f"<answer>{answer}</answer>", ["1234"], question=SPENT["en"]).value
    assert english == float("1.234" not in answer)


@pytest.mark.parametrize(
    "mark",
    ["1. {}", "1、{}", "1．{}", "（1）{}", "1) {}", "1：{}", "1:{}", "①{}", "问题1：{}", "第1题：{}", "Frage 1: {}"],
)
def test_numbered_lines_are_read(mark: str) -> None:
    gold = ["前枣巷", "王桂芳", "云纹黄铜茶壶"]
    lines = [mark.replace("1", str(i)).replace("①", "①②③"[i - 1]).format(text) for i, text in enumerate(gold, 1)]
    assert score("ordered_fraction", f"<answer>{chr(10).join(lines)}</answer>", gold).value == 1.0
    if not re.search("[:：①]", mark):  # these have to begin with 1
        rest = "\n".join(lines[1:])
        assert score("ordered_fraction", f"<answer>{rest}</answer>", gold).value == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("keine von 3, 17, 42", CHAPTERS),
        ("ninguno de 3, 17, 42", CHAPTERS),
        ("außer 3, 17, 42", CHAPTERS),
        ("excepto 3, 17, 42", CHAPTERS),
        ("不包括3、17、42", CHAPTERS),
        ("除第3章、第17章、第42章以外", CHAPTERS),
        ("3、17、42都不是", CHAPTERS),
        ("3, 17, 42 sind falsch", CHAPTERS),
        ("Die Zahl der Kapitel ist 3, 17, 42", CHAPTERS),
        ("3 oder 17 oder 42", CHAPTERS),
        ("第3至42章", CHAPTERS),
        ("Kapitel 3: etwas gekauft\nKapitel 17: nichts gekauft\nKapitel 42: nichts gekauft", CHAPTERS),
        ("alles außer Wiener Kamm, Ulmer Uhr, Bremer Ring", ["Wiener Kamm", "Ulmer Uhr", "Bremer Ring"]),
        ("Wiener Kamm, Ulmer Uhr und Bremer Ring sind falsch", ["Wiener Kamm", "Ulmer Uhr", "Bremer Ring"]),
        ("不包括云纹黄铜茶壶、大黄铜碗、旧黄铜镜子", ["云纹黄铜茶壶", "大黄铜碗", "旧黄铜镜子"]),
        ("除了云纹黄铜茶壶、大黄铜碗以外", ["云纹黄铜茶壶", "大黄铜碗"]),
    ],
)
def test_denied_lists_earn_nothing(answer: str, gold: list[str]) -> None:
    assert score("set_iou", f"<answer>{answer}</answer>", gold).value == 0.0


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("超过467", "467"),
        ("467万", "467"),
        ("四百六十", "467"),
        ("四百六七", "467"),
        ("4,67", "467"),
        ("467,05", "467"),
        ("467和468", "467"),
        ("mehr als 467", "467"),
        ("在467", "467"),
        ("不是467", "467"),
        ("大约467枚铜元", "467"),
        ("nicht 467", "467"),
        ("unos 467", "467"),
        ("467 mil", "467"),
    ],
)
def test_words_beside_a_number_earn_nothing(answer: str, gold: str) -> None:
    assert score("exact_match", f"<answer>{answer}</answer>", [gold]).value == 0.0


def test_all_measure_words_are_known() -> None:
    for noun in language("zh").lexicon("nouns.tsv"):
        assert normalise(f"一{noun[4]}{noun[0]}") == noun[0]


# --- no form earns anything ---------------------------------------------------------------------------------

Written = Callable[[list[str]], str]


def _listed(comma: str, joint: str, chapter: str, quotes: str) -> dict[str, Written]:
    """Ways to write a list in a language, and chapters."""
    return {
        "commas": comma.join,
        "joint": lambda entries: (
            joint.join([comma.join(entries[:-1]), entries[-1]]) if len(entries) > 1 else entries[0]
        ),
        "lines": "\n".join,
        "bullets": lambda entries: "\n".join(f"- {entry}" for entry in entries),
        "quoted": lambda entries: comma.join(f"{quotes[0]}{entry}{quotes[1]}" for entry in entries),
        "chapters": lambda entries: comma.join(chapter.format(entry) for entry in entries),
    }


LISTED = {
    "de": _listed(", ", " und ", "Kapitel {}", "„“"),
    "es": _listed(", ", " y ", "capítulo {}", "«»"),
    "zh": _listed("、", "和", "第{}章", "「」"),
}
SUMS: dict[str, list[str]] = {
    "de": ["{}", "{} Kronen", "Insgesamt {} Kronen.", "Die Summe beträgt {} Kronen.", "Es sind {} Kronen.", "{},00"],
    "es": ["{}", "{} coronas", "En total: {}", "El total es de {} coronas.", "Son {} coronas.", "{},00 coronas"],
    "zh": ["{}", "{}枚铜元", "总共{}枚铜元。", "答案是{}。", "一共付了{}枚铜元", "合计：{}"],
}
PRICED: dict[str, list[str]] = {
    "de": ["{}: {}", "{}: {} Kronen", "- {}: {} Kronen", "„{}“: {}"],
    "es": ["{}: {}", "{}: {} coronas", "- {}: {} coronas.", "«{}»: {}"],
    "zh": ["{}：{}", "{}: {}枚铜元", "- {}：{}枚铜元。", "“{}”：{}"],
}
SPELT = "〇一二三四五六七八九"


def _other(draw: random.Random, entry: str) -> str:
    """Another entry: a character replaced, or left out."""
    at = draw.randrange(len(entry))
    kept = draw.choice([entry[at] + entry[at], "", "7" if entry[at] != "7" else "4"])
    return entry[:at] + kept + entry[at + 1 :]


@pytest.mark.parametrize("code", sorted(LISTED))
def test_no_form_makes_a_wrong_answer_right(code: str) -> None:
    draw, things = random.Random(code), Things(Stream("forms", code), None, code)
    for _ in range(50):
        chapters = [str(number) for number in draw.sample(range(1, 200), draw.randrange(1, 5))]
        names = [things.thing().name for _ in range(draw.randrange(1, 5))]
        for gold in (chapters, names):
            wrong = [*gold]
            at = draw.randrange(len(gold))
            wrong[at] = _other(draw, gold[at])
            for form, write in LISTED[code].items():
                if form == "chapters" and gold is names:
                    continue
                assert score("set_iou", f"<answer>{write(gold)}</answer>", gold).value == 1.0, (form, gold)
                if {*map(normalise, wrong)} != {*map(normalise, gold)}:
                    assert score("set_iou", f"<answer>{write(wrong)}</answer>", gold).value < 1.0, (form, wrong, gold)
        sums, wrong_sum = chapters[:1], _other(draw, chapters[0])
        for sentence in SUMS[code]:
            right = score("exact_match", f"<answer>{sentence.format(*sums)}</answer>", sums, question=SPENT[code])
            assert right.value == 1.0, (sentence, sums)
            if wrong_sum and int(wrong_sum) != int(sums[0]):
                other = score(
                    "exact_match", f"<answer>{sentence.format(wrong_sum)}</answer>", sums, question=SPENT[code]
                )
                assert other.value == 0.0, (sentence, wrong_sum, sums)
        prices = [str(draw.randrange(1, 180)) for _ in names]
        pairs = [f"{name}: {price}" for name, price in zip(names, prices, strict=True)]
        for line in PRICED[code]:
            reported = "\n".join(line.format(*one) for one in zip(names, prices, strict=True))
            assert score("set_iou", f"<answer>{reported}</answer>", pairs).value == 1.0, reported
            wrong_price = [str(int(prices[0]) + 1), *prices[1:]]
            reported = "\n".join(line.format(*one) for one in zip(names, wrong_price, strict=True))
            assert score("set_iou", f"<answer>{reported}</answer>", pairs).value < 1.0, reported


def test_chinese_numerals_are_read_as_they_are_written() -> None:
    for number in [*range(1, 400), 1001, 1010, 1234, 10_000, 10_203, 98_765]:
        answer = f"<answer>{_spelt(number)}</answer>"
        assert score("exact_match", answer, [str(number)]).value == 1.0, answer
        assert score("exact_match", answer, [str(number + 1)]).value == 0.0, answer


def _spelt(number: int) -> str:
    """A number in Chinese, by other means than the parser's: each digit with its ten, zeros between as one."""
    if number >= 10_000:
        rest = number % 10_000
        return f"{_spelt(number // 10_000)}万" + ("零" if 0 < rest < 1000 else "") + (_spelt(rest) if rest else "")
    signs = "".join(
        SPELT[int(digit)] + ten if digit != "0" else "零"
        for digit, ten in zip(f"{number:04}", ("千", "百", "十", ""), strict=True)
    ).strip("零")
    return signs.replace("零零", "零").removeprefix("一") if 10 <= number < 20 else signs.replace("零零", "零")
