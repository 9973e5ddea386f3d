import subprocess
import sys

import pytest

from server.cli import main


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "steersman serve" in capsys.readouterr().out


def test_an_unknown_command_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["steer"]) == 2
    assert "Usage" in capsys.readouterr().err


def test_help_of_serve_does_not_wait_for_vllm() -> None:
    code = (
        "import sys; from server.cli import main; status = main(['serve', '--help']); "
        "sys.exit(status or ('vllm' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for option in ("--demo", "--library", "--bank-rows", "--max-relative-dose", "--help=all"):
        assert option in done.stdout
