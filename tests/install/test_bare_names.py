"""Ruff refuses an import of a room by its bare name, which would be a second copy of the module."""

import json
import subprocess
import sys

import pytest

from tests.support.install import ROOMS, ROOT


def lint(source: str, name: str) -> list[str]:
    """The rules that `source` breaks as the file `name`."""
    command = [sys.executable, "-m", "ruff", "check", "--output-format", "json", "--no-cache"]
    done = subprocess.run(
        [*command, "--stdin-filename", name, "-"],
        input=source,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == "" or "error" not in done.stderr, done.stderr
    return [broken["code"] for broken in json.loads(done.stdout)]


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("name", ["server/some.py", "tests/some.py", "bench/some.py"])
def test_bare_names_are_refused(room: str, name: str) -> None:
    for source in (
        f"import {room}\n\nprint({room})\n",
        f"from {room} import app\n\nprint(app)\n",
        f"from {room}.app import main\n\nprint(main)\n",
    ):
        assert lint(source, name) == ["TID251"], source
    assert lint(f"from steersman.{room} import app\n\nprint(app)\n", name) == []
