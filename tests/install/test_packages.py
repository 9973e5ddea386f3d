"""The wheel and the sdist: what is in them, and that they are the same."""

import tarfile
import zipfile
from pathlib import Path

import pytest

from steersman.server.playground.routes import read_files
from tests.support.install import ROOMS, ROOT, Environment, build, run

SOURCES_OF_THE_PAGE = ROOT / "client" / "playground"
"""What it is built from; the wheel has what is built."""
BUILT = ROOT / "server" / "playground" / "built"


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("room", ROOMS)
def test_the_wheel_has_every_file_of_a_room_under_steersman(wheel: Path, room: str) -> None:
    expected = {
        f"steersman/{path.relative_to(ROOT)}": path.read_bytes()
        for kind in ("*.py", "*.json")
        for path in (ROOT / room).rglob(kind)
        if not path.is_relative_to(SOURCES_OF_THE_PAGE)
    }
    assert len(expected) > 30
    found = contents(wheel)
    assert {name: found.get(name) for name in expected} == expected


def test_the_wheel_has_nothing_else(wheel: Path) -> None:
    names = [name for name in contents(wheel) if ".dist-info/" not in name]
    tops = {"/".join(name.split("/")[:2]) for name in names}
    own = {"steersman/__init__.py", "steersman/__main__.py", "steersman/py.typed"}
    assert tops == own | {f"steersman/{room}" for room in ROOMS}
    page = {f"steersman/{path.relative_to(ROOT)}" for path in BUILT.iterdir()}
    assert page <= set(names)
    suffixes = {Path(name).suffix for name in names if name not in page}
    assert suffixes == {".py", ".json", ".typed"}
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


def test_an_installed_package_has_the_page_of_the_playground(environment: Environment) -> None:
    """Byte for byte: no user needs node."""
    code = (
        "from steersman.server.playground.routes import read_files\n"
        "for name, file in read_files().items(): print(name, file.etag)"
    )
    printed = run([environment.python, "-c", code], environment.folder)
    found = dict(line.split() for line in printed.splitlines())
    assert found == {name: file.etag for name, file in read_files(BUILT).items()}
    assert {"index.html", "app.js", "app.css"} <= found.keys()
