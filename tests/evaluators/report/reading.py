"""Reads a page as a program would: its elements, its tables, its text."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Final

__all__ = ["Element", "parsed"]

_VOID: Final = {"meta", "br", "img", "input", "link", "hr"}


@dataclass
class Element:
    """An element of a page."""

    name: str
    attributes: dict[str, str | None]
    children: list[Element | str] = field(default_factory=list)

    def all(self, name: str) -> list[Element]:
        """All elements of a name below this one, in order."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                found += ([child] if child.name == name else []) + child.all(name)
        return found

    def every(self) -> list[Element]:
        """All elements below this one."""
        return [one for child in self.children if isinstance(child, Element) for one in (child, *child.every())]

    @property
    def text(self) -> str:
        """Its words, blanks as one."""
        words = (child if isinstance(child, str) else child.text for child in self.children)
        return " ".join(" ".join(words).split())

    def section(self, anchor: str) -> Element:
        """The section of an id."""
        return next(one for one in self.all("section") if one.attributes["id"] == anchor)

    def table(self, caption: str) -> list[list[str]]:
        """The rows of the table whose caption this is, less its head."""
        found = [one for one in self.all("table") if one.all("caption")[0].text == caption]
        assert len(found) == 1, f"{len(found)} tables are called {caption}"
        return [
            [cell.text for cell in row.children if isinstance(cell, Element)]
            for row in found[0].all("tbody")[0].all("tr")
        ]


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag} has an attribute twice: {attrs}"
        element = Element(tag, dict(attrs))
        self._open[-1].children.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1].name == tag, f"</{tag}> closes {self._open[-1].name}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)


def parsed(html: str) -> Element:
    """A page, each element of which has to be closed."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    assert [one.name for one in parser._open] == [""], "an element is not closed"
    return parser.root
