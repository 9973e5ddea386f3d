"""The tables of docs/load.md, out of the results that stand in bench/results.

python -m bench.load.page
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.load.asks import WARM_UP
from tools.docs.markers import insert

RESULTS = Path(__file__).parents[1] / "results"
PAGE = Path(__file__).parents[2] / "docs" / "load.md"
CASES = {"limited": "limited keys", "free": "keys without limits"}


def load_table(found: Mapping[str, Any]) -> Iterator[str]:
    """What was asked, and what came of it, phase by phase."""
    yield _when(found)
    yield f"The server holds {found['ramp']['holds_per_s']:.2f} requests a second: 1x."
    yield ""
    yield (
        "| | arrivals/s | answered | refused | answered/s | tokens/s "
        "| first token, s: p50, p95, p99 | per token, ms: p50, p95, p99 |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for case, title in CASES.items():
        for n, run in enumerate(found[case]):
            heading = title if len(found[case]) == 1 else f"{title}, round {n + 1}"
            yield f"| **{heading}** | | | | | | | |"
            for name, phase in run["phases"].items():
                if name != WARM_UP:
                    yield _row(name, phase)


def rolling_table(found: Mapping[str, Any]) -> Iterator[str]:
    """Requests and failures, and each restart."""
    asked = "; ".join(f"{count} {kind}" for kind, count in sorted(found["requests"].items()))
    nginx = found["nginx"]
    after = ", ".join(f"{n} {_why(first)}" for first, n in nginx["asked_again_after"].items())
    yield _when(found)
    yield ""
    yield "| | |"
    yield "| --- | --- |"
    yield f"| requests that came out right | {sum(found['requests'].values())}: {asked} |"
    yield f"| **failures** | **{found['failure_count']}** |"
    yield f"| sent again by nginx | {nginx['asked_again']}: {after or 'none'} |"
    for one in found["restarts"]:
        yield (
            f"| restart of {one['replica']} | SIGTERM with {one['requests_under_way']} under way; "
            f"exit code {one['exit_code']} after {one['seconds_to_exit']} s, ready again "
            f"{one['seconds_to_ready']} s later |"
        )
    seen = ", ".join(f"{n} on {name}" for name, n in found["vectors_seen_at_the_end"].items())
    yield f"| vectors there in the end, as last changed | {seen} |"


def _when(found: Mapping[str, Any]) -> str:
    load = found["settings"]["load_average_before"][0]
    return f"Run of {found['date'][:10]}; the machine's load average before it was {load}."


def _row(name: str, phase: Mapping[str, Any]) -> str:
    refused = {k: n for k, n in phase["outcomes"].items() if k != "200"}
    return (
        f"| {name} | {phase['rate_asked']:.2f} | {phase['outcomes'].get('200', 0)} "
        f"| {', '.join(f'{n} x {k}' for k, n in refused.items()) or '0'} "
        f"| {phase['answered_per_s']:.2f} | {phase['tokens_per_s']:.0f} "
        f"| {_spread(phase['first_token_s'], 2)} | {_spread(phase['token_ms'], 0)} |"
    )


def _spread(values: Mapping[str, float] | None, digits: int) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values.values()) if values else ""


def _why(first: str) -> str:
    return {"503": "after a 503", "502": "after a refused or broken connection"}.get(first, first)


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, table in (("load", load_table), ("rolling", rolling_table)):
        found = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        text = insert(text, name, "\n".join(table(found)))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
