"""Answers in the languages of the tasks are read by the same rules as English ones."""

from __future__ import annotations

import pytest

from sparse_tasks.evaluators.scoring import score

CHAPTERS = ["3", "17", "42"]


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
        "3、17、42",
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
    ],
)
def test_single_answers_are_read(answer: str, gold: str) -> None:
    assert score("exact_match", f"<answer>{answer}</answer>", [gold]).value == 1.0


@pytest.mark.parametrize("mark", ["1. {}", "1、{}", "1．{}", "（1）{}", "1) {}"])
def test_numbered_lines_are_read(mark: str) -> None:
    gold = ["前枣巷", "王桂芳", "云纹黄铜茶壶"]
    lines = [mark.replace("1", str(i)).format(text) for i, text in enumerate(gold, 1)]
    assert score("ordered_fraction", f"<answer>{chr(10).join(lines)}</answer>", gold).value == 1.0
    assert score("ordered_fraction", f"<answer>{chr(10).join(lines[1:])}</answer>", gold).value == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("keine von 3, 17, 42", CHAPTERS),
        ("ninguno de 3, 17, 42", CHAPTERS),
        ("außer 3, 17, 42", CHAPTERS),
        ("excepto 3, 17, 42", CHAPTERS),
    ],
)
def test_denied_lists_earn_nothing(answer: str, gold: list[str]) -> None:
    assert score("set_iou", f"<answer>{answer}</answer>", gold).value == 0.0


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("不是467", "467"), ("大约467枚铜元", "467"), ("nicht 467", "467"), ("unos 467", "467"), ("467 mil", "467")],
)
def test_words_beside_a_number_earn_nothing(answer: str, gold: str) -> None:
    assert score("exact_match", f"<answer>{answer}</answer>", [gold]).value == 0.0
