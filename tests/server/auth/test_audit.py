"""The audit's lines: one a change, whole, and telling who, what and from where."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from steersman.server.auth import audit
from steersman.server.auth.audit import write_to
from steersman.server.auth.caller import Caller, enter
from steersman.server.auth.permissions import ADMIN
from tests.support.server.host import VECTORS, Site, content
from tests.support.server.keys import bearer, entry, permissions, write

Lines = Callable[[], list[dict[str, Any]]]
HOSTILE = 'a"}\n{"audit": "forged"}\r\u2028\x1b[31m\x00é\udcff'


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Lines]:
    path = tmp_path / "audit.jsonl"
    write_to(str(path))
    yield lambda: [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    write_to(None)


def test_a_line_says_who_when_and_from_where(lines: Lines) -> None:
    import contextvars

    def change() -> None:
        enter(Caller(permissions("alice"), "10.0.3.7", "r-1"))
        audit.audit("vector.created", vector="v", digest="sha256:0")

    contextvars.copy_context().run(change)
    audit.audit("keys.loaded", keys=["alice"])
    one, two = lines()
    when = datetime.fromisoformat(one.pop("time"))
    assert abs(datetime.now(UTC) - when) < timedelta(minutes=5)
    assert one == {
        "audit": "vector.created", "key": "alice", "client": "10.0.3.7", "request_id": "r-1",
        "vector": "v", "digest": "sha256:0",
    }  # fmt: skip
    assert (two["key"], two["client"], two["request_id"]) == (None, None, None)


def test_no_line_can_be_forged_or_broken(lines: Lines, tmp_path: Path) -> None:
    audit.audit("x", vector=HOSTILE)
    raw = (tmp_path / "audit.jsonl").read_bytes()
    assert raw.count(b"\n") == 1
    assert raw.isascii()
    assert b"\x1b" not in raw
    assert lines()[0]["vector"] == HOSTILE


def test_to_standard_output_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    write_to(None)
    audit.audit("x", vector="v")
    assert json.loads(capsys.readouterr().out)["vector"] == "v"


def test_a_file_that_was_moved_away_is_begun_anew(lines: Lines, tmp_path: Path) -> None:
    audit.audit("one")
    path = tmp_path / "audit.jsonl"
    path.rename(tmp_path / "audit.1")
    audit.audit("two")
    assert [line["audit"] for line in lines()] == ["two"]
    assert path.stat().st_mode & 0o007 == 0


def test_lines_of_threads_and_processes_do_not_mix(lines: Lines, tmp_path: Path) -> None:
    program = (
        "import sys; from steersman.server.auth.audit import audit, write_to\n"
        "write_to(sys.argv[1])\n"
        "for n in range(200): audit('other', n=n, pad='x' * 3000)"
    )
    path = str(tmp_path / "audit.jsonl")
    root = Path(__file__).parents[3]
    other = subprocess.Popen([sys.executable, "-c", program, path], cwd=root)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: audit.audit("mine", n=n, pad="y" * 3000), range(400)))
    assert other.wait() == 0
    found = lines()
    assert len(found) == 600
    assert sorted(line["n"] for line in found if line["audit"] == "mine") == list(range(400))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    keys = write(tmp_path / "keys.yaml", entry("alice"), entry("boss", ADMIN))
    return Site(tmp_path / "library", keys)


def said(lines: Lines) -> list[tuple[str, str | None, str | None]]:
    return [
        (line["audit"], line["key"], line.get("vector"))
        for line in lines()
        if line["audit"] != "keys.loaded"
    ]


def test_a_line_for_every_change_and_none_for_what_changed_nothing(
    lines: Lines, site: Site
) -> None:
    assert site.upload("alice", content(1), "v").status_code == 201
    assert site.upload("alice", content(1), "v").status_code == 200
    assert site.upload("alice", content(2), "v").status_code == 409
    assert site.upload("alice", b"junk", "w").status_code == 400
    assert site.call("alice", "PATCH", f"{VECTORS}/v", json={"coefficient": 2.0}).status_code == 200
    assert site.call("alice", "PATCH", f"{VECTORS}/w", json={"coefficient": 2.0}).status_code == 404
    assert site.call("alice", "GET", f"{VECTORS}/v").status_code == 200
    assert site.call("nobody", "DELETE", f"{VECTORS}/v").status_code == 401
    assert site.call("boss", "DELETE", f"{VECTORS}/v").status_code == 200
    assert site.call("boss", "DELETE", f"{VECTORS}/v").status_code == 404
    assert said(lines) == [
        ("vector.created", "alice", "v"), ("vector.updated", "alice", "v"),
        ("vector.deleted", "boss", "v"),
    ]  # fmt: skip
    assert all(line["client"] == "testclient" for line in lines() if line["key"])


def test_a_damaged_vector_that_is_deleted_leaves_a_line(lines: Lines, site: Site) -> None:
    site.upload("alice", content(1), "v")
    os.truncate(site.state.whole_library.resolve("v").path, 10)
    assert site.call("alice", "DELETE", f"{VECTORS}/v").status_code == 200
    assert said(lines)[-1] == ("vector.deleted", "alice", "v")


def test_jobs_and_what_they_make(lines: Lines, site: Site) -> None:
    pairs = [[f"good {n}", f"bad {n}"] for n in range(4)]
    wanted = {"method": "mean_difference", "name": "v", "pairs": pairs}
    site.engine._slow = ("good 0",)
    path = "/v1/steering/jobs"
    with site.client:
        for end in ("cancelled", "succeeded"):
            answer = site.call("alice", "POST", f"{VECTORS}/extract", json=wanted)
            job = f"{path}/{answer.json()['id']}"
            if end == "cancelled":
                assert site.call("boss", "DELETE", job).status_code == 200
            else:
                assert site.client.portal is not None
                site.client.portal.call(site.engine.go.set)
            while (ended := site.call("alice", "GET", job).json())["status"] in (
                "queued", "running", "cancelling",
            ):  # fmt: skip
                pass
            assert ended["status"] == end
            # Cancelling what has ended changes nothing.
            assert site.call("boss", "DELETE", job).status_code == 200
    assert said(lines) == [
        ("job.submitted", "alice", "v"), ("job.cancelled", "boss", "v"),
        ("job.submitted", "alice", "v"), ("vector.created", "alice", "v"),
    ]  # fmt: skip


def test_what_cannot_be_written_undoes_nothing_and_is_told(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_to(str(tmp_path))
    try:
        assert site.upload("alice", content(1), "v").status_code == 201
    finally:
        write_to(None)
    assert site.names("alice") == ["v"]
    told = [r.message for r in caplog.records if "audit line not written" in r.message]
    assert len(told) == 1
    assert '"vector": "v"' in told[0]


def test_no_key_and_no_text_of_a_request_is_in_a_line(
    site: Site, lines: Lines, tmp_path: Path
) -> None:
    site.client.headers["X-Request-Id"] = "r" * 9000
    headers = {**bearer("alice"), "Cookie": "secret=1"}
    files = {"file": ("secret.safetensors", content(1, description="a secret"))}
    url = f"{VECTORS}?token=secret"
    answer = site.client.post(url, headers=headers, files=files, data={"name": "v"})
    assert answer.status_code == 201
    text = (tmp_path / "audit.jsonl").read_text()
    assert "secret" not in text
    assert len(text) < 2000
    assert said(lines) == [("vector.created", "alice", "v")]


async def test_on_the_loop_a_line_is_written_in_a_thread(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    real = os.write

    def watching(file: int, text: bytes) -> int:
        threads.append(threading.get_ident())
        return real(file, text)

    monkeypatch.setattr(os, "write", watching)
    enter(Caller(permissions("alice"), "10.0.3.7", "r-1"))
    await audit.audit_line("job.submitted", job="j")
    (line,) = lines()
    assert (line["audit"], line["key"], line["client"]) == ("job.submitted", "alice", "10.0.3.7")
    assert threading.get_ident() not in threads
