"""The wheel and the sdist: what is in them, and that they are the same."""

import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.install import ROOMS, ROOT, build


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("room", ROOMS)
def test_the_wheel_has_every_file_of_a_room_under_steersman(wheel: Path, room: str) -> None:
    expected = {
        f"steersman/{path.relative_to(ROOT)}": path.read_bytes()
        for kind in ("*.py", "*.json")
        for path in (ROOT / room).rglob(kind)
    }
    assert len(expected) > 30
    found = contents(wheel)
    assert {name: found.get(name) for name in expected} == expected


def test_the_wheel_has_nothing_else(wheel: Path) -> None:
    names = [name for name in contents(wheel) if ".dist-info/" not in name]
    tops = {"/".join(name.split("/")[:2]) for name in names}
    own = {"steersman/__init__.py", "steersman/__main__.py", "steersman/py.typed"}
    assert tops == own | {f"steersman/{room}" for room in ROOMS}
    assert {Path(name).suffix for name in names} == {".py", ".json", ".typed"}
    with zipfile.ZipFile(wheel) as archive:
        assert not [x.filename for x in archive.infolist() if (x.external_attr >> 28) == 0o12]


def test_the_sdist_has_plain_files_and_builds_the_same_wheel(
    sdist: Path, wheel: Path, tmp_path: Path
) -> None:
    with tarfile.open(sdist) as archive:
        assert all(member.isfile() or member.isdir() for member in archive)
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    again = build(unpacked, "build_wheel", tmp_path / "wheel")
    assert again.name == wheel.name
    assert contents(again) == contents(wheel)
