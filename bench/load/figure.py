"""The figure of bench/load/run.py: a column for each case, time to the right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.load.asks import WARM_UP, Phase
from bench.load.sums import Record, first_token, good, starts
from bench.load.watch import Sample

BIN_S = 2.0
SERVED, STEERED, REFUSED = "#0b6e99", "#c26a00", "#999999"


class Case(NamedTuple):
    """One run: what was asked, what came back, what the server said of itself meanwhile."""

    title: str
    phases: Sequence[Phase]
    records: Sequence[Record]
    samples: Sequence[Sample]
    """Their times count from the run's start."""


def draw(path: Path, cases: Mapping[str, Case]) -> None:
    """Arrivals, time to first token, requests in the engine."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        3, len(cases), figsize=(6 * len(cases), 8), sharex="col", sharey="row", squeeze=False
    )
    for column, case in zip(axes.T, cases.values(), strict=True):
        column[0].set_title(case.title, fontsize=10)
        _arrivals(column[0], case)
        _first_tokens(column[1], case)
        column[2].plot([s.at for s in case.samples], [s.running for s in case.samples],
                       color=SERVED, label="running")  # fmt: skip
        column[2].plot([s.at for s in case.samples], [s.waiting for s in case.samples],
                       color=STEERED, label="waiting")  # fmt: skip
        column[2].set_xlabel("seconds", fontsize=9)
        for axis in column:
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.3)
            for start in starts(case.phases):
                axis.axvline(start, color="#4d4d4d", lw=0.8, ls=":")
    labels = ("arrivals a second", "seconds to first token", "requests in the engine")
    for row, label in zip(axes, labels, strict=True):
        row[0].set_ylabel(label, fontsize=9)
        row[-1].legend(fontsize=8, loc="center right")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _arrivals(axis: Any, case: Case) -> None:
    served: Counter[int] = Counter()
    refused: Counter[int] = Counter()
    for record in case.records:
        (served if good(record) else refused)[int(record["at"] / BIN_S)] += 1
    bins = range(int(sum(phase.seconds for phase in case.phases) / BIN_S) + 1)
    left = [n * BIN_S for n in bins]
    heights = [served[n] / BIN_S for n in bins]
    style = {"width": BIN_S, "align": "edge"}
    axis.bar(left, heights, color=SERVED, label="answered", **style)
    axis.bar(left, [refused[n] / BIN_S for n in bins], bottom=heights, color=REFUSED,
             label="429 or 503", **style)  # fmt: skip
    for phase, start in zip(case.phases, starts(case.phases), strict=True):
        if phase.name == WARM_UP:
            continue  # too short for its name
        axis.text(
            start + 1, 0.99, phase.name, fontsize=8, va="top", transform=axis.get_xaxis_transform()
        )


def _first_tokens(axis: Any, case: Case) -> None:
    for steered, colour, label in ((False, SERVED, "unsteered"), (True, STEERED, "steered")):
        mine = [r for r in case.records if good(r) and r["steered"] is steered]
        axis.plot([r["sent"] for r in mine], [first_token(r) for r in mine], ".", ms=4,
                  color=colour, label=label)  # fmt: skip
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
