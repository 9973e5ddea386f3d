"""Writes docs/models.md, which kinds of models can be steered, from what `test_models.py` found.

python -m tests.support.models.table
"""

import fcntl
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.support.models.families import FAMILIES
from tests.support.models.family import Family

ROOT = Path(__file__).parents[3]
FOUND = ROOT / "bench" / "results" / "models.json"
FILE = ROOT / "docs" / "models.md"

HEAD = """\
# Models

Steersman finds a model's blocks, its residual stream and the branches that join it by structure: it
has no list of names. When a model has been loaded, a few passes over some tokens show whether what
is added to a block's output reaches the stream as it is, and whether attention and MLP outputs join
the stream unscaled and unnormed (`steering/worker/residual_probe.py`). A model of which the first
is not true does not start, and says why; `attn_out` and `mlp_out` are offered only where the second
is true of them in every block.

Each row is a tiny random model of 3 or 4 blocks on vLLM 0.32's CPU build, in float32. With a vector
as long as the stream added at each of these sites, at every block one by one, log-probabilities of
prompt and answer were no further than "worst" from Hugging Face transformers with a forward hook
(1e-4 is allowed), and steering moved each of those answers by more than 0.05.

Where vLLM itself cannot run a model on the CPU in float32, the row has the error of vLLM without
Steersman, from that test's own run. A model that is not here has not been tried: when it is loaded
it is examined like these.

`tests/matrix/test_models.py` proves the rows (`make matrix`; those marked * in `make test` too),
keeps what it found in `bench/results/models.json` and writes this file from it.

| model | steered at | worst | |
| --- | --- | --- | --- |
"""


def record(family: Family, found: dict[str, Any]) -> None:
    """Keep what was found of a family whose test has passed, unless it was worse before, and write
    the page: so the files stay as they are while nothing changes."""
    with Path(__file__).open(encoding="utf-8") as lock:  # Against tests in other processes.
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows, row = read(), as_row(found)
        before = rows.get(family.name, {})
        if family.needs and family.vllm_must_fail and "sites" in before:
            return  # Seen on a machine that has more.
        if said(before) == said(row) and before.get("worst", 0) >= row.get("worst", 0):
            return
        rows[family.name] = row
        FOUND.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        FILE.write_text(page(), encoding="utf-8")


def said(row: dict[str, Any]) -> dict[str, Any]:
    """What of a row is words."""
    return {
        name: value
        for name, value in row.items()
        if name != "date" and isinstance(value, str | list)
    }


def as_row(found: dict[str, Any]) -> dict[str, Any]:
    date = datetime.now(UTC).date().isoformat()
    if found.get("stage") == "plain":
        error = found["error"].splitlines()[0]
        return {"date": date, "impossible": error, "place": found["place"]}
    if "error" in found:
        return {"date": date, "refused": found["error"].splitlines()[0]}
    steered = found["steered"].values()
    row = {
        "date": date,
        "sites": found["sites"],
        "worst": max(x["off"] for x in steered),
        "least_moved": min(x["moved"] for x in steered),
    }
    if "own_activation" in found:
        row["own_activation"] = found["own_activation"]
    return row


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
    if family.unproven:
        return 3, (name, "unproven", "", family.unproven)
    if not row:
        return 3, (name, "not run yet", "", "")
    if "impossible" in row:
        error = row["impossible"].replace("`", "'").replace("|", "/")
        why = f"vLLM itself cannot run it on CPU: `{error}` (`{row['place']}`)"
        if family.needs:
            why += f"; it needs {family.needs}, which has no CPU build on PyPI"
        return 2, (name, "not run", "", why)
    if "refused" in row:
        return 1, (name, "refused at start", "", family.note)
    sites = ", ".join(f"`{site}`" for site in row["sites"])
    notes = [family.note] if family.note else []
    if "own_activation" in row:
        notes.append(f"unsteered, vLLM is {row['own_activation']:.0e} from Hugging Face's own")
    if family.needs:
        notes.append(f"needs {family.needs}")
    return 0, (name, sites, f"{row['worst']:.0e}", "; ".join(notes))


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
