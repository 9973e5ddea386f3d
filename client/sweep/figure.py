"""Figures, as PNG files. matplotlib is optional: if it is missing, `plotter`'s error has the
remedy."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steersman.client.sweep.grid import UNSTEERED
from steersman.client.sweep.measures.measure import needed
from steersman.client.sweep.pick import PERPLEXITY, Pick
from steersman.client.sweep.report import layers_text
from steersman.client.sweep.run import CellResult


def plotter() -> Any:
    """matplotlib's pyplot, drawing to files only. Raises `WrongUsage` if it is not installed."""
    needed("matplotlib", "matplotlib", "the figure (leave it out with --no-figure)").use("Agg")
    return needed("matplotlib.pyplot", "matplotlib", "the figure")


def save(figure: Any, path: Path) -> None:
    """Write the figure; the same numbers give the same file."""
    # Tight: what stands beside the axes, however long, is inside.
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plotter().close(figure)


def draw_sweep(path: Path, results: Sequence[CellResult], picked: Pick | None, label: str) -> None:
    """Behaviour and perplexity against the coefficient, one line a set of layers."""
    unsteered = results[0]
    figure, (above, below) = plotter().subplots(2, 1, sharex=True, figsize=(7, 6.5))
    for layers in dict.fromkeys(r.cell.layers for r in results if r.cell != UNSTEERED):
        own = [r for r in results if r.cell.layers == layers and r.refused is None]
        own = sorted([unsteered, *own], key=lambda r: r.cell.coefficient)
        x = [r.cell.coefficient for r in own]
        errors = [r.error if math.isfinite(r.error) else 0.0 for r in own]
        bars = above.errorbar(x, [r.measure for r in own], errors, fmt="o-", ms=4, capsize=2)
        bars.set_label(f"layer {layers_text(layers)}")
        line = bars[0]
        below.plot(x, [r.perplexity for r in own], "o-", ms=4, color=line.get_color())
    above.axhline(unsteered.measure, color="#888888", lw=0.8, ls="--", label="unsteered")
    below.axhline(unsteered.perplexity, color="#888888", lw=0.8, ls="--")
    limit = PERPLEXITY * unsteered.perplexity
    below.axhline(limit, color="#b03030", lw=0.8, ls=":", label=f"{PERPLEXITY:g} x unsteered")
    if picked is not None:
        at = picked.result
        star = {"marker": "*", "s": 190, "color": "black", "zorder": 5}
        above.scatter([at.cell.coefficient], [at.measure], label="picked", **star)
        below.scatter([at.cell.coefficient], [at.perplexity], **star)
    above.set_ylabel(textwrap.fill(label, 36), fontsize=9)
    above.set_title("bars: standard error over the prompts", fontsize=8, loc="right")
    below.set_ylabel("perplexity under\nthe unsteered model", fontsize=9)
    below.set_yscale("log")
    for set_formatter in (below.yaxis.set_major_formatter, below.yaxis.set_minor_formatter):
        set_formatter(lambda value, _: f"{value:g}")
    below.set_xlabel("coefficient")
    for axis in (above, below):
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    save(figure, path)


def draw_inspection(path: Path, found: dict[str, Any], most: int = 8) -> None:
    """Lengths by layer, and cosines with the most similar of the other vectors."""
    figure, (left, right) = plotter().subplots(1, 2, figsize=(11, 4))
    known = all(tensor["relative_norm"] is not None for tensor in found["tensors"])
    field = "relative_norm" if known else "norm"
    for site in dict.fromkeys(tensor["site"] for tensor in found["tensors"]):
        own = [tensor for tensor in found["tensors"] if tensor["site"] == site]
        x = [tensor["layer"] for tensor in own]
        left.plot(x, [tensor[field] for tensor in own], "o-", ms=4, label=site)
        chosen = [tensor for tensor in own if tensor["default"]]
        left.scatter(
            [t["layer"] for t in chosen], [t[field] for t in chosen], s=90, fc="none", ec="black"
        )
    left.set_ylabel("norm over the stream's median norm" if known else "norm")
    left.set_title("length (ringed: default layers)", fontsize=10)
    left.legend(fontsize=8)
    left.set_ylim(0, 1.25 * left.get_ylim()[1])
    _draw_cosines(right, found, most)
    for axis in (left, right):
        axis.set_xlabel("layer")
        axis.grid(alpha=0.3)
    figure.suptitle(found["id"])
    figure.tight_layout()
    save(figure, path)


def _draw_cosines(axis: Any, found: dict[str, Any], most: int) -> None:
    matrix = found["similarity"]
    tensors = found["tensors"]
    site = tensors[0]["site"]
    columns = {
        name: [
            (tensor["layer"], row[n])
            for tensor, row in zip(tensors, matrix["cosines"], strict=True)
            if tensor["site"] == site and row[n] is not None
        ]
        for n, name in enumerate(matrix["vectors"])
    }
    ranked = sorted(
        (name for name, points in columns.items() if points),
        key=lambda name: (-max(abs(cosine) for _, cosine in columns[name]), name),
    )
    for name in ranked[:most]:
        axis.plot(*zip(*columns[name], strict=True), "o-", ms=3, label=name)
    axis.axhline(0, color="#888888", lw=0.8)
    axis.set_ylim(-1.05, 1.05)
    axis.set_title(f"cosine with other vectors at {site}", fontsize=10)
    if ranked:
        axis.legend(fontsize=7)
