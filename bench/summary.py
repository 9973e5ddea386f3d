"""From batches to the figures of the overhead benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles
from typing import Any

from bench.streams import Batch

TARGETS = {"idle": 1.01, "one_vector": 1.02, "distinct_mixes": 1.05}


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The first and the third; of one value, itself."""
    if len(values) == 1:
        return values[0], values[0]
    first, _, third = quantiles(values, n=4, method="inclusive")
    return first, third


def summary(batches: dict[str, list[Batch]]) -> dict[str, Any]:
    """Per configuration: medians over rounds, and the ratios to plain vLLM with their spread."""
    table: dict[str, Any] = {}
    for name, runs in batches.items():
        pairs = zip(runs, batches["plain"], strict=True)
        ratios = [run.seconds / base.seconds for run, base in pairs]
        first, third = quartiles(ratios)
        table[name] = {
            "ms_per_token": round(1000 * median(run.seconds for run in runs), 3),
            "tokens_per_second": round(median(run.tokens_per_second for run in runs), 1),
            "ratio": round(median(ratios), 4),
            "ratio_quartiles": [round(first, 4), round(third, 4)],
            "ratio_range": [round(min(ratios), 4), round(max(ratios), 4)],
        }
        if name in TARGETS:
            table[name]["target"] = TARGETS[name]
            table[name]["met"] = bool(median(ratios) <= TARGETS[name])
    return table
