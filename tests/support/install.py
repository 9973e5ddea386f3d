"""Builds the package and installs it into environments of their own, without the network."""

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("client", "server", "steering", "vectors")
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "steersman", *ROOMS)
HOSTILE = 'raise RuntimeError("a module of the user\'s own was imported: " + __name__)\n'


def copy_of_sources(folder: Path) -> Path:
    """What a build reads, links as links: setuptools writes beside its sources."""
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, folder / name, symlinks=True, ignore=ignored)
        else:
            folder.mkdir(exist_ok=True, parents=True)
            shutil.copy2(source, folder / name)
    return folder


def build(sources: Path, hook: str, into: Path) -> Path:
    """Run setuptools' PEP 517 hook `build_wheel`, `build_sdist` or `build_editable`, as pip does
    with `--no-build-isolation`. Returns the file that it wrote."""
    into.mkdir()
    code = f"from setuptools import build_meta; build_meta.{hook}({str(into)!r})"
    run([sys.executable, "-c", code], sources)
    (built,) = into.iterdir()
    return built


@dataclass(frozen=True)
class Environment:
    """A virtual environment with this package and, behind it, all that these tests run with."""

    folder: Path

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    @property
    def command(self) -> str:
        return str(self.folder / "bin" / "steersman")


def install(wheel: Path, folder: Path) -> Environment:
    made = Environment(folder)
    run([sys.executable, "-m", "venv", "--without-pip", str(folder)], folder.parent)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", made.python]
    run([*pip, "install", "--no-index", "--no-deps", "--no-compile", str(wheel)], folder.parent)
    # Added last, so that pip found nothing of ours to uninstall. A path in a .pth file brings no
    # other .pth files with it: the editable install of the repository stays out.
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return made


def hostile_folder(folder: Path) -> Path:
    """Fill a folder with modules that have the names of our rooms and raise when imported."""
    folder.mkdir(exist_ok=True)
    for room in ROOMS:
        (folder / f"{room}.py").write_text(HOSTILE)
        (folder / room).mkdir()
        (folder / room / "__init__.py").write_text(HOSTILE)
    return folder


def run(command: list[str], folder: Path, **variables: str) -> str:
    """Stdout of `command` in `folder`, with nothing of the repository on its path."""
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VLLM_PLUGINS"}}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
