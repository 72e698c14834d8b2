"""Guards pictures: a pixel is the share of its interactions, thin lines show, bad files are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")

from sparse_tasks.attention import picture
from sparse_tasks.attention.examples import structured
from sparse_tasks.attention.index import BlockIndex
from sparse_tasks.attention.method import METHODS, PrefillMethod
from sparse_tasks.attention.patterns import Columns, Everything, Pattern
from sparse_tasks.attention.picture import Rows, draw, select
from sparse_tasks.core.errors import OutputError, UsageError
from tests.attention.toys import Where, block_index


def shares(pattern: Pattern, n_q: int, n_k: int, head: int = 0) -> torch.Tensor:
    """Pixels of a picture."""
    return torch.as_tensor(picture._shares([(pattern, n_k - n_q, n_k)], head, n_q, n_k))


def random_index(n: int, heads: int = 3) -> BlockIndex:
    """Half of all blocks."""
    rows = -(-n // 16)
    kept = torch.rand(heads, rows, rows, generator=torch.Generator().manual_seed(0)) < 0.5
    return block_index(kept, 16, 16, n, n)


def test_pixels_are_shares_of_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "_PIXELS", 7)
    n_q, n_k = 50, 61
    index = random_index(n_k)
    mask = index.pattern().mask(n_q, n_k)[1].float()
    causal = Everything().mask(n_q, n_k)[0].float()
    found = shares(index.pattern(), n_q, n_k, head=1)
    for row in range(7):
        for column in range(7):
            cell = [(i, j) for i in range(n_q) for j in range(n_k) if i * 7 // n_q == row and j * 7 // n_k == column]
            there = sum(causal[i, j] for i, j in cell)
            if there == 0:
                assert found[row, column].isnan()
            else:
                torch.testing.assert_close(found[row, column], sum(mask[i, j] for i, j in cell) / there)


def test_one_vertical_shows_among_many_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "_SAMPLED", 1 << 22)
    n = 32_768
    kept = torch.zeros(1, n, dtype=torch.bool)
    kept[0, 12_345] = True
    found = shares(Columns(kept) | Where(lambda i, j: i == j), n, n)
    column = 12_345 * picture._PIXELS // n
    assert (found[column + 2 :, column] > 0).all()
    assert (found[column + 2 :, column + 1] == 0).sum() > 0


def test_chunks_are_joined(tmp_path: Path) -> None:
    # A prompt whose queries are taken in turn is drawn as one.
    whole = random_index(96)
    mask = whole.mask()
    parts = [block_index(mask[:, a // 16 : b // 16, : b // 16], 16, 16, b - a, b) for a, b in ((0, 64), (64, 96))]
    assert draw(parts, 96, 96, tmp_path / "a.png") == pytest.approx(draw(whole, 96, 96, tmp_path / "b.png"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with pytest.raises(UsageError, match="follow"):
        draw(parts[::-1], 96, 96, tmp_path / "c.png")


def test_density_covers_all_heads(tmp_path: Path) -> None:
    index = random_index(100, heads=6)
    asked, computed = draw(index, 100, 100, tmp_path / "a.svg", title="half", head=5)
    assert asked == pytest.approx(float(index.selected_density().mean()))
    assert computed == pytest.approx(float(index.density().mean()))
    assert "head 5" in (tmp_path / "a.svg").read_text() or (tmp_path / "a.svg").stat().st_size > 0


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_is_drawn(name: str, tmp_path: Path) -> None:
    method = METHODS.get(name)(sparsity=0.8)
    q, k, _ = structured(700, 4, 2, 32)
    drawn = select(method, q, k, impl="torch")
    n_q = 700
    if not isinstance(method, PrefillMethod):
        assert isinstance(drawn, Rows)
        n_q = drawn.kept.shape[1]
        assert n_q == 64
        assert drawn.kept[:, torch.arange(64), torch.arange(636, 700)].any(0).all()
    asked, computed = draw(drawn, n_q, 700, tmp_path / "a.png", title=name)
    assert 0.05 < computed < 0.6
    assert asked <= computed + 1e-9
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", METHODS.names())
def test_short_inputs_are_drawn(name: str, tmp_path: Path) -> None:
    method = METHODS.get(name)(sparsity=0.0)
    for n in (1, 5):
        q, k, _ = structured(n, 2, 1, 16)
        if n == 1 and not isinstance(method, PrefillMethod):
            with pytest.raises(UsageError, match="length"):
                select(method, q, k, impl="torch")
            continue
        drawn = select(method, q, k, impl="torch")
        n_q = drawn.kept.shape[1] if isinstance(drawn, Rows) else n
        assert draw(drawn, n_q, n, tmp_path / "a.png")[1] == pytest.approx(1.0)


def test_invalid_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.png, \.svg, \.pdf"):
        draw(Everything(), 9, 9, tmp_path / "a.jpg")
    with pytest.raises(UsageError, match="choose from 0 to 2"):
        draw(random_index(40), 40, 40, tmp_path / "a.png", head=3)
    with pytest.raises(UsageError, match="n_k"):
        draw(random_index(40), 50, 50, tmp_path / "a.png")
    with pytest.raises(UsageError, match="not a folder"):
        draw(Everything(), 9, 9, tmp_path / "none" / "a.png")
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        draw(Everything(), 9, 9, tmp_path / "taken.png")
