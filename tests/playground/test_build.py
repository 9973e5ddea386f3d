"""The committed page is what its sources give."""

import gzip
import subprocess
import sys
from pathlib import Path

from steersman.server.playground.routes import BUILT

ROOT = Path(__file__).parents[2]
MOST_BYTES = 150_000
"""Of all that a first visit loads, as it is sent."""


def test_a_rebuild_gives_the_committed_files(tmp_path: Path) -> None:
    venv = Path(sys.prefix)
    done = subprocess.run(
        [str(ROOT / "client" / "playground" / "build.sh"), str(venv), str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in BUILT.iterdir()}
    different = sorted(name for name in made | kept if made.get(name) != kept.get(name))
    assert different == [], "the sources have changed: run `make playground` and commit"


def test_the_page_is_small() -> None:
    sent = {
        path.name: len(data if path.suffix == ".woff2" else gzip.compress(data, 9))
        for path in BUILT.iterdir()
        if path.suffix != ".txt"
        for data in [path.read_bytes()]
    }
    assert sum(sent.values()) < MOST_BYTES, sent
