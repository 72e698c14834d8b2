#!/usr/bin/env python
"""``make.py pictures`` draws those of docs/methods.md, ``make.py notebook`` runs methods.ipynb and keeps what comes.

``make.py pictures quest blast`` draws those of these methods alone.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent
LENGTH, SPARSITY = 8192, 0.8
LAYERS = 32  # of the model whose first, middle and last layer PyramidKV is drawn for


def pictures(names: list[str]) -> None:
    """One a method, as ``sparse-tasks attention show`` draws it, in 16 colours, so that they stay small.

    Args:
        names: Of the methods; none stands for all of them.
    """
    from PIL import Image

    from sparse_tasks.attention.method import METHODS
    from sparse_tasks.attention.methods.duo_attention import DuoMethod  # of two heads both would stream at .8

    for method in map(METHODS.get, names or METHODS.names()):
        path = DOCS / "methods" / f"{method.name}.png"
        if method.name == "pyramidkv":
            _pyramid(path)
        else:
            settings = {"streaming": 0.5} if issubclass(method, DuoMethod) else {"sparsity": SPARSITY}
            _picture(method(**settings), path)
        with Image.open(path) as image:
            few = image.convert("RGB").quantize(palette=_palette(), dither=Image.Dither.NONE)
        few.save(path, optimize=True)
        print(f"{path.name}: {path.stat().st_size:,} bytes")


def _palette() -> Any:
    """Greys from black to white, for text, and the blues from the lightest to the darkest."""
    from PIL import Image

    from sparse_tasks.attention import picture

    few, most = (bytes.fromhex(colour[1:]) for colour in (picture._FEW, picture._ALL))
    blues = [round(a + (b - a) * step / 9) for step in range(10) for a, b in zip(few, most, strict=True)]
    greys = [grey for grey in (0x00, 0x50, 0x90, 0xC0, 0xE4, 0xFF) for _ in range(3)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(greys + blues)
    return palette


def _picture(method: Any, path: Path, note: str = "", head: int | None = None) -> None:
    """Draw the selection of a method from the same made queries and keys, with its parameters as a title."""
    from sparse_tasks.attention.examples import structured
    from sparse_tasks.attention.picture import Rows, draw, select

    q, k, _ = structured(LENGTH)
    drawn = select(method, q, k, impl="torch")
    n_q = drawn.kept.shape[1] if isinstance(drawn, Rows) else LENGTH
    settings = ", ".join(f"{name} {value}" for name, value in method.settings().items() if value is not None)
    draw(drawn, n_q, LENGTH, path, title=f"{method.name}, {LENGTH:,} tokens{note}\n{settings}", head=head)


def _pyramid(path: Path) -> None:
    """PyramidKV differs from SnapKV between layers alone: three of them, one above the other."""
    from PIL import Image

    from sparse_tasks.attention.method import Layer
    from sparse_tasks.attention.methods.pyramidkv import PyramidKV

    images = []
    for number in (0, LAYERS // 2, LAYERS - 1):
        capacity = PyramidKV(sparsity=SPARSITY).tokens(LENGTH, LENGTH, Layer(number, LAYERS))
        _picture(PyramidKV(capacity=capacity), path, f", layer {number + 1} of {LAYERS}", head=0)
        with Image.open(path) as image:
            images.append(image.convert("RGB"))
    stacked = Image.new("RGB", (images[0].width, sum(image.height for image in images)))
    for place, image in enumerate(images):
        stacked.paste(image, (0, place * image.height))
    stacked.save(path)


def notebook(replace: dict[str, str] | None = None) -> dict[str, Any]:
    """The notebook, run cell by cell without Jupyter, with its outputs.

    Args:
        replace: Words of the code to words that run instead.
    """
    book: dict[str, Any] = json.loads((DOCS / "methods.ipynb").read_text(encoding="utf-8"))
    space: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, start=1):
        source = "".join(cell["source"])
        for words, others in (replace or {}).items():
            source = source.replace(words, others)
        cell["execution_count"], cell["outputs"] = number, _run(source, space)
    return book


def _run(source: str, space: dict[str, Any]) -> list[dict[str, Any]]:
    """Output of a cell, and its last line's value if that is a picture."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), "cell", "exec"), space)
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), space) if last is not None else None
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": printed.getvalue().splitlines(True)})
    if hasattr(value, "_repr_png_"):
        data = {"image/png": base64.b64encode(value._repr_png_()).decode()}
        outputs.append({"output_type": "display_data", "metadata": {}, "data": data})
    return outputs


def main() -> None:
    """``pictures``, with or without names, or ``notebook``."""
    if sys.argv[1:2] == ["pictures"]:
        pictures(sys.argv[2:])
    elif sys.argv[1:] == ["notebook"]:
        text = json.dumps(notebook(), indent=1, ensure_ascii=False) + "\n"
        (DOCS / "methods.ipynb").write_text(text, encoding="utf-8")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
