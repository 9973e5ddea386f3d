"""A library that can be read and not written: mounted so, and as its errors say."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from steersman.server import health
from steersman.vectors.library import disk
from tests.support.server.host import JOBS, VECTORS, Site, content

PAIRS = [[f"good {n}", f"bad {n}"] for n in range(4)]
Lock = Callable[[], None]


@pytest.fixture(params=["mounted", "made up"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, Lock]]:
    """A directory, and what makes it read-only."""
    if request.param == "made up":
        yield tmp_path, lambda: _made_up(monkeypatch)
        return
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a file system takes root and mount")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"root may mount nothing here: {mounted.stderr.strip()}")
    try:
        yield tmp_path, lambda: _run("mount", "-o", "remount,ro", str(tmp_path))
    finally:
        _run("umount", "-l", str(tmp_path))


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def _made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    real = os.open

    def opening(path: Any, flags: int, *more: Any, **options: Any) -> int:
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return int(refuse() if writes else real(path, flags, *more, **options))

    monkeypatch.setattr(os, "open", opening)
    for name in ("utime", "unlink"):
        monkeypatch.setattr(os, name, refuse)
    # What is there already is found to be there, also on such a disk.
    monkeypatch.setattr(Path, "mkdir", lambda path, **_: None if path.is_dir() else refuse())
    monkeypatch.setattr(Path, "touch", refuse)
    space = SimpleNamespace(f_flag=os.ST_RDONLY, f_bavail=1, f_favail=1)
    monkeypatch.setattr(os, "statvfs", lambda _: space)


@pytest.fixture
def site(place: tuple[Path, Lock]) -> Site:
    """A server with one vector, whose library is read-only from now on."""
    root, lock = place
    made = Site(root / "library", None)
    made.app.include_router(health.router)
    made.app.state.engine_client = SimpleNamespace(check_health=_well)
    assert made.upload("", content(1), "there").status_code == 201
    assert made.client.get("/ready").json() == {"status": "ready"}
    lock()
    return made


async def _well() -> None:
    """An engine that is alive."""


def test_changes_are_refused_with_the_remedy(site: Site) -> None:
    wanted = {"method": "mean_difference", "name": "made", "pairs": PAIRS}
    refused = {
        "upload": site.upload("", content(2), "new"),
        "change": site.call("", "PATCH", f"{VECTORS}/there", json={"coefficient": 2.0}),
        "description": site.call("", "PATCH", f"{VECTORS}/there", json={"description": "d"}),
        "delete": site.call("", "DELETE", f"{VECTORS}/there"),
        "extract": site.call("", "POST", f"{VECTORS}/extract", json=wanted),
    }
    for what, answer in refused.items():
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (503, "library_read_only"), (what, error)
        assert "--library" in error["message"]
        # No path of the server's is shown to clients.
        assert str(site.state.whole_library.root) not in error["message"]
    assert site.names("") == ["there"]


def test_what_only_reads_goes_on(site: Site) -> None:
    assert site.steer("", {"vectors": {"there": 1.0}}).status_code == 200
    assert site.call("", "GET", f"{VECTORS}/there").status_code == 200
    assert site.call("", "GET", f"{VECTORS}/there/content").status_code == 200
    assert site.call("", "GET", f"{VECTORS}/there/inspect").status_code == 200
    assert site.call("", "GET", JOBS).json()["data"] == []
    # Once a minute or an hour there is housekeeping, too.
    site.state.whole_library._collect_at = 0.0
    assert site.names("") == ["there"]


def test_ready_says_what_cannot_be_done(site: Site) -> None:
    answer = site.client.get("/ready")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ready", "degraded": [disk.READ_ONLY]}
    assert REGISTRY.get_sample_value("steering_ready") == 1
    assert REGISTRY.get_sample_value("steering_library_writable") == 0


def test_a_server_starts_on_it(site: Site) -> None:
    again = Site(site.state.whole_library.root, None)
    assert again.names("") == ["there"]


def test_a_full_disk_is_said_by_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Site(tmp_path, None)
    made.app.include_router(health.router)
    made.app.state.engine_client = SimpleNamespace(check_health=_well)
    space = SimpleNamespace(f_flag=0, f_bavail=0, f_favail=5)
    monkeypatch.setattr(os, "statvfs", lambda _: space)
    assert made.client.get("/ready").json() == {"status": "ready", "degraded": [disk.FULL]}
