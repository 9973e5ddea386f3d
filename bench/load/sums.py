"""From locust's records to the figures of the load test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench.load.asks import Phase

Record = dict[str, Any]
PERCENTILES = (50, 95, 99)


def percentile(values: Sequence[float], percent: float) -> float:
    """Linear between the nearest two; `values` are not empty."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def good(record: Record) -> bool:
    """Answered whole, with its receipt where steered."""
    return record["status"] == 200 and not record.get("error")


def first_token(record: Record) -> float:
    """Seconds from sending to the first token."""
    return float(record["first"] - record["sent"])


def per_token(record: Record) -> float:
    """Seconds per output token after the first."""
    return float((record["last"] - record["first"]) / (record["tokens"] - 1))


def outcome(record: Record) -> str:
    """`200`, `429`, ... or what else went wrong."""
    if record["status"] != 200:
        return str(record["status"] or record["error"])
    return f"200, but {record['error']}" if record.get("error") else "200"


def spread(values: Sequence[float], factor: float = 1.0) -> dict[str, float] | None:
    """p50, p95 and p99; None of nothing."""
    if not values:
        return None
    return {f"p{p}": round(factor * percentile(values, p), 3) for p in PERCENTILES}


def sums(phase: Phase, start: float, records: Sequence[Record]) -> dict[str, Any]:
    """One phase, that began at `start`: its requests are those that were sent in it.

    `answered_per_s` and `tokens_per_s` are of what ended in it, whenever it was sent.
    """
    mine = [record for record in records if record["phase"] == phase.name]
    served = [record for record in mine if good(record)]
    end = start + phase.seconds
    ended = [r for r in records if good(r) and start <= r["ended"] < end]
    retry = [int(r["retry_after"]) for r in mine if r.get("retry_after")]
    return {
        "rate_asked": round(phase.rate, 3),
        "seconds": phase.seconds,
        "requests": len(mine),
        "outcomes": dict(sorted(Counter(outcome(record) for record in mine).items())),
        "retry_after_s": [min(retry), max(retry)] if retry else None,
        "steered": sum(bool(record.get("steered")) for record in served),
        "answered_per_s": round(len(ended) / phase.seconds, 3),
        "tokens_per_s": round(sum(r["tokens"] for r in ended) / phase.seconds, 1),
        "first_token_s": spread([first_token(record) for record in served]),
        "token_ms": spread([per_token(record) for record in served], 1000),
        "sent_late_ms": round(1000 * max(r["sent"] - r["at"] for r in mine), 1),
    }


def starts(phases: Sequence[Phase]) -> list[float]:
    """When each phase begins."""
    return [sum(phase.seconds for phase in phases[:n]) for n in range(len(phases))]


def all_sums(phases: Sequence[Phase], records: Sequence[Record]) -> dict[str, Any]:
    """Every phase by its name."""
    begins = zip(phases, starts(phases), strict=True)
    return {phase.name: sums(phase, start, records) for phase, start in begins}
