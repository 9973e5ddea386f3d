"""What the matrix found: one row for each way of running, in `bench/results/ways.json`.

    with way("tensor parallel 2") as row:
        ...                       # start the engine or server that way, ask, assert
        row.steered("log-probabilities within 3e-07 of the plain engine's")

A block that raises leaves a failed row and goes on raising; one that says neither `steered` nor
`refused` fails. `tests/support/matrix/table.py` makes the table of docs/ways.md out of the file.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[3] / "bench" / "results" / "ways.json"


class Row:
    """One row of the table: said once, at the end of the test, when all has been seen."""

    def __init__(self) -> None:
        self.found: dict[str, str] | None = None

    def steered(self, how: str) -> None:
        """Steering works this way of running; `how` says in a few words what was seen."""
        self.found = {"steered": "yes", "how": how}

    def refused(self, why: str) -> None:
        """Starting this way is an error, and says why; so does `why`, in a few words."""
        self.found = {"steered": "refused", "how": why}

    def not_here(self, why: str) -> None:
        """Neither could be seen on this machine (no GPU, a package that is missing): `why`."""
        self.found = {"steered": "not tried", "how": why}


@contextmanager
def way(name: str) -> Iterator[Row]:
    """The row of the way of running called `name`, written when the block ends, however it ends."""
    row = Row()
    try:
        yield row
        assert row.found is not None, "the block said neither `steered` nor `refused`"
    except BaseException as error:
        lines = str(error).strip().splitlines() or [""]
        write(name, {"steered": "FAILED", "how": f"{type(error).__name__}: {lines[0]:.120}"})
        raise
    write(name, row.found)


def write(name: str, found: dict[str, str]) -> None:
    """Put one row into the file, leaving the others; safe against tests in other processes.

    Does nothing under `STEERSMAN_WAYS=keep`: `make test` leaves the file as it is.
    """
    if os.environ.get("STEERSMAN_WAYS") == "keep":
        return
    FILE.parent.mkdir(parents=True, exist_ok=True)
    with FILE.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        rows: dict[str, Any] = json.loads(text) if text else {}
        rows[name] = found
        file.truncate(0)
        file.write(json.dumps(rows, indent=1, sort_keys=True) + "\n")


def read() -> dict[str, dict[str, str]]:
    """All rows, by name."""
    if not FILE.exists():
        return {}
    rows: dict[str, dict[str, str]] = json.loads(FILE.read_text(encoding="utf-8"))
    return rows
