"""How benchmarks speak: progress on the way, and one JSON object at the end."""

import json
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.machine import describe

FOLDER = Path(__file__).parent / "results"


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def publish(benchmark: str, found: Mapping[str, Any], *, keep: bool = True) -> None:
    """Print `found` under what ran, when and where; `keep` it in bench/results/<benchmark>.json."""
    result = {
        "benchmark": benchmark,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(),
        **found,
    }
    if keep:
        FOLDER.mkdir(exist_ok=True)
        text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
        (FOLDER / f"{benchmark}.json").write_text(text, encoding="utf-8")
        say(f"written to {FOLDER / benchmark}.json")
    print(json.dumps(result, ensure_ascii=False))
