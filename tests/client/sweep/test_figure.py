"""The figure: error bars, and all that is written lies inside."""

from pathlib import Path
from typing import Any

import pytest

from steersman.client.sweep import figure
from steersman.client.sweep.grid import UNSTEERED, Cell
from steersman.client.sweep.run import CellResult

pytest.importorskip("matplotlib", reason="an extra: steersman[measure]")
LONG = "judge (qwen): " + "is the answer kind, patient and to the point? " * 6


def results() -> list[CellResult]:
    cells = [UNSTEERED, *(Cell((n,), c) for n in (3, 14) for c in (-2.0, 2.0))]
    return [
        CellResult(cell, measure=0.1 * n, error=0.05 * n, perplexity=3.0 + n, repetition=0.1)
        for n, cell in enumerate(cells)
    ]


@pytest.mark.parametrize("label", ["VADER sentiment", LONG])
def test_labels_are_inside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, label: str) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(figure, "save", lambda made, _: drawn.append(made))
    figure.draw_sweep(tmp_path / "x.png", results(), None, label)
    (made,) = drawn
    made.savefig(tmp_path / "x.png", bbox_inches="tight")
    renderer = made.canvas.get_renderer()
    whole = made.get_tightbbox(renderer)
    width, height = made.get_size_inches()
    # Nearly the size that was wanted: nothing runs far beside it, which tight saving would keep.
    assert whole.x1 - whole.x0 <= 1.1 * width
    assert whole.y1 - whole.y0 <= 1.1 * height


def test_each_point_has_its_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(figure, "save", lambda made, _: drawn.append(made))
    figure.draw_sweep(tmp_path / "x.png", results(), None, "a")
    above = drawn[0].axes[0]
    assert len(above.containers) == 2
    (bars,) = above.containers[0][2]
    heights = [float(high[1] - low[1]) / 2 for low, high in bars.get_segments()]
    assert heights == pytest.approx([0.05, 0.0, 0.1])


def test_the_file_is_written(tmp_path: Path) -> None:
    figure.draw_sweep(tmp_path / "x.png", results(), None, "a")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
