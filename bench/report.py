"""What a benchmark leaves: one JSON object, printed last and kept in bench/results/."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.machine import describe

FOLDER = Path(__file__).parent / "results"


def head(benchmark: str) -> dict[str, Any]:
    """What every such object begins with: what ran, when, and where."""
    return {
        "benchmark": benchmark,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(),
    }


def publish(result: dict[str, Any]) -> None:
    """Write bench/results/<benchmark>.json and print the object."""
    FOLDER.mkdir(exist_ok=True)
    text = json.dumps(result, indent=1, ensure_ascii=False)
    (FOLDER / f"{result['benchmark']}.json").write_text(text + "\n", encoding="utf-8")
    print(json.dumps(result, ensure_ascii=False))
