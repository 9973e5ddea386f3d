"""The figure of bench/engine/composition.py: perplexity against strength, a line for each way."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLOURS = {
    "constant": "#0b6e99",
    "dynamic sum": "#c26a00",
    "dynamic mean": "#6a3d9a",
    "start": "#999999",
    "diminishing": "#4d4d4d",
}
MARKED = ("constant", "dynamic sum")
"""Ways whose points carry their coefficients and intervals."""


def draw(path: Path, found: Mapping[str, Any]) -> None:
    """One row a decoding, one column a property. The same numbers draw the same file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    labels = found["settings"]["measures"]
    decodings = found["decodings"]
    figure, axes = plt.subplots(
        len(decodings), len(labels), figsize=(11, 4 * len(decodings)), squeeze=False, sharey="row"
    )
    for row, (decoding, judged) in zip(axes, decodings.items(), strict=True):
        for axis, (name, label) in zip(row, labels.items(), strict=True):
            for way, points in judged["paths"].items():
                _line(axis, name, way, points)
            axis.set_yscale("log")
            for set_formatter in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
                set_formatter(lambda value, _: f"{value:g}")
            axis.set_title(f"{name}, {decoding}", fontsize=10)
            axis.set_xlabel(label, fontsize=9)
            axis.tick_params(labelsize=8, which="both")
            axis.grid(alpha=0.3)
        row[0].set_ylabel("perplexity under the unsteered model", fontsize=9)
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _line(axis: Any, name: str, way: str, points: list[Mapping[str, Any]]) -> None:
    x = [point["measures"][name] for point in points]
    y = [point["perplexity"] for point in points]
    style: dict[str, Any] = {"color": COLOURS[way], "ms": 4}
    if way not in MARKED:
        axis.plot(x, y, "o--", lw=1, label=way, **style)
        return
    edges = [
        [at - point["interval"][0] for at, point in zip(y, points, strict=True)],
        [point["interval"][1] - at for at, point in zip(y, points, strict=True)],
    ]
    axis.errorbar(x, y, yerr=edges, fmt="o-", lw=1.6, elinewidth=0.6, label=way, **style)
    for at, point in zip(zip(x, y, strict=True), points, strict=True):
        if point["coefficient"]:
            axis.annotate(
                f"{point['coefficient']:g}",
                at,
                xytext=(4, -9),
                textcoords="offset points",
                fontsize=7,
                color=COLOURS[way],
            )
