"""Every pinned package runs on the oldest Python that the README names."""

import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
DEBIAN_12 = "3.11.2"
"""Its Python, and that of an image on it: an old patch release of the oldest minor one."""


def test_pinned_packages_run_on_debian_12() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert DEBIAN_12 in SpecifierSet(project["requires-python"])
    lines = (ROOT / "requirements" / "cpu.txt").read_text().splitlines()
    pins = [Requirement(line.split("#")[0]) for line in lines if line[:1].isalnum()]
    assert len(pins) > 100
    too_new = {}
    for pin in pins:
        if pin.marker is None or pin.marker.evaluate():
            needs = distribution(pin.name).metadata["Requires-Python"] or ""
            if DEBIAN_12 not in SpecifierSet(needs):
                too_new[pin.name] = needs
    assert not too_new
