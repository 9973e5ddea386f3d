"""Writes docs/models.md, which kinds of models can be steered, from what `test_models.py` found.

python -m tests.matrix.models_table
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.matrix.models import FAMILIES, Family

ROOT = Path(__file__).parents[2]
FOUND = ROOT / "bench" / "results" / "models.json"
FILE = ROOT / "docs" / "models.md"

HEAD = """\
# Models

Steersman finds a model's blocks, its residual stream and the branches that join it by structure: it
has no list of names. When a model has been loaded, a few passes over some tokens show whether what
is added to a block's output reaches the stream as it is, and whether attention and MLP outputs join
the stream unscaled and unnormed (`steering/anatomy.py`). A model of which the first is not true
does not start, and says why; `attn_out` and `mlp_out` are offered only where the second is true of
them in every block.

Each row is a tiny random model of 3 or 4 blocks on vLLM 0.32's CPU build, in float32. With a vector
as long as the stream added at each of these sites, at every block one by one, log-probabilities of
prompt and answer were no further than "worst" from Hugging Face transformers with a forward hook
(1e-4 is allowed), and steering moved each of those answers by more than 0.05.

`tests/matrix/test_models.py` proves the rows (`make matrix`; those marked * in `make test` too),
keeps what it found in `bench/results/models.json` and writes this file from it.

| model | steered at | worst | |
| --- | --- | --- | --- |
"""


def record(family: Family, found: dict[str, Any]) -> None:
    """Keep what was found of a family whose test has passed, unless it was worse before, and write
    the page: so the files stay as they are while nothing changes."""
    rows, row = read(), as_row(found)
    before = rows.get(family.name, {})
    same = before.keys() == row.keys() and before.get("sites") == row.get("sites")
    if same and before.get("worst", 0) >= row.get("worst", 0):
        return
    rows[family.name] = row
    FOUND.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    FILE.write_text(page(), encoding="utf-8")


def as_row(found: dict[str, Any]) -> dict[str, Any]:
    date = datetime.now(UTC).date().isoformat()
    if "error" in found:
        return {"date": date, "refused": found["error"].splitlines()[0]}
    steered = found["steered"].values()
    return {
        "date": date,
        "sites": found["sites"],
        "worst": max(x["off"] for x in steered),
        "least_moved": min(x["moved"] for x in steered),
    }


def read() -> dict[str, dict[str, Any]]:
    """What was found, by name of family."""
    if not FOUND.exists():
        return {}
    rows: dict[str, dict[str, Any]] = json.loads(FOUND.read_text(encoding="utf-8"))
    return rows


def page() -> str:
    """The whole file."""
    rows = read()
    lines = [line(family, rows.get(family.name, {})) for family in FAMILIES]
    return HEAD + "".join(f"| {' | '.join(cells)} |\n" for _, cells in sorted(lines))


def line(family: Family, row: dict[str, Any]) -> tuple[int, tuple[str, ...]]:
    """(which part of the table, the cells)."""
    name = family.name + ("*" if family.quick else "")
    if family.not_run:
        return 3, (name, "not run here", "", family.not_run)
    if not row:
        return 2, (name, "not run yet", "", "")
    if "refused" in row:
        return 1, (name, "refused at start", "", family.note)
    sites = ", ".join(f"`{site}`" for site in row["sites"])
    return 0, (name, sites, f"{row['worst']:.0e}", family.note)


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
