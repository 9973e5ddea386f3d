"""The command itself: help, versions, usage, and how soon it is there."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.client.cli.conftest import Done

COMMANDS = [
    "chat", "jobs list", "jobs show", "jobs cancel", "vectors list", "vectors show",
    "vectors import", "vectors export", "vectors upload", "vectors delete", "vectors extract",
    "vectors rescale", "vectors inspect", "vectors set", "vectors rename", "vectors compare",
    "sweep",
]  # fmt: skip


def test_help_names_every_command(steersman: Callable[..., Done]) -> None:
    done = steersman("--help")
    assert done.status == 0
    for word in ("steersman serve", "chat", "jobs", "serve", "sweep", "vectors"):
        assert word in done.out
    below = steersman("vectors", "--help").out
    for word in [
        "list",
        "show",
        "import",
        "export",
        "upload",
        "delete",
        "extract",
        "rescale",
        "inspect",
    ]:
        assert f" {word} " in below


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_and_the_common_options(
    steersman: Callable[..., Done], command: str
) -> None:
    done = steersman(*command.split(), "--help")
    assert done.status == 0
    for word in ("Examples:", f"steersman {command}", "--server", "--api-key", "--json"):
        assert word in done.out


@pytest.mark.parametrize("command", ["sweep", "vectors inspect"])
def test_help_of_what_is_imported_late(steersman: Callable[..., Done], command: str) -> None:
    done = steersman(*command.split(), "--help")
    assert done.status == 0
    assert f"Usage: steersman {command}" in done.out
    assert "--server" in done.out


def test_wrong_usage_is_a_2(steersman: Callable[..., Done]) -> None:
    for args in (["steer"], ["vectors", "list", "--limit", "0"], ["vectors", "show"]):
        done = steersman(*args)
        assert done.status == 2
        assert "Usage" in done.err
        assert not done.out
    for args in ([], ["vectors"]):
        done = steersman(*args)
        assert done.status == 2
        assert "Usage" in done.out


def test_version(steersman: Callable[..., Done]) -> None:
    assert steersman("--version").out.startswith("steersman 0.")


def imported(*args: str) -> set[str]:
    """Top-level modules that running the command brings in."""
    code = (
        "import sys; from steersman.client.cli import main; main(sys.argv[1:]); "
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, check=True
    )
    assert "Usage: " in done.stdout or "usage: " in done.stdout
    return set(done.stderr.split())


def test_help_does_not_wait_for_what_is_slow() -> None:
    for command in ([], ["vectors"], ["vectors", "extract"], ["vectors", "rescale"]):
        args = [*command, "--help"]
        assert not {"torch", "vllm", "numpy", "httpx", "fastapi"} & imported(*args)


def test_serve_hands_over_to_the_launcher() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "steersman.client.cli", "serve", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for option in ("--demo", "--library", "--bank-rows", "--max-relative-dose", "--help=all"):
        assert option in done.stdout
    assert "vllm" not in imported("serve", "--help")
