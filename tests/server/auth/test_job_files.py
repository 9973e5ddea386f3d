"""The books of jobs that servers of other versions write into the same directory."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from steersman.server.extraction.jobs import Jobs
from tests.support.server.host import JOBS, Site
from tests.support.server.keys import entry, write

ID = "job-" + "a" * 16


def put(tmp_path: Path, **fields: Any) -> Site:
    keys = write(tmp_path / "keys.yaml", entry("a", vectors=["a-*"]), entry("b", vectors=["b-*"]))
    site = Site(tmp_path / "library", keys)
    job = {"id": ID, "method": "caa", "name": "a-1", "status": "succeeded", **fields}
    folder = tmp_path / "library" / "jobs"
    folder.mkdir(exist_ok=True)
    (folder / f"{ID}.json").write_text(json.dumps(job))
    return site


@pytest.mark.parametrize(
    "fields", [{}, {"owner": "b"}, {"owner": None}, {"colour": "red", "folder": "/etc"},
               {"saved_at": 5.0}, {"status": "of a newer version", "updated_at": time.time()}],
)  # fmt: skip
def test_what_an_older_or_newer_server_wrote_is_read(tmp_path: Path, fields: Any) -> None:
    site = put(tmp_path, **fields)
    said = site.call("a", "GET", f"{JOBS}/{ID}")
    assert said.status_code == 200, said.text
    assert (said.json()["id"], said.json()["name"]) == (ID, "a-1")
    assert "colour" not in said.json()
    assert [j["id"] for j in site.call("a", "GET", JOBS).json()["data"]] == [ID]
    assert site.call("b", "GET", f"{JOBS}/{ID}").status_code == 404


def test_a_list_has_the_first_bad_rows_and_how_many_there_are(tmp_path: Path) -> None:
    bad = [{"row": n, "label": "positive", "reason": "r"} for n in range(25)]
    site = put(tmp_path, bad_rows=bad)
    (listed,) = site.call("a", "GET", JOBS).json()["data"]
    assert (listed["bad_rows"], listed["bad_rows_total"]) == (bad[:10], 25)
    whole = site.call("a", "GET", f"{JOBS}/{ID}").json()
    assert whole["bad_rows"] == bad


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null", '{"id": "x"}', '{"name": 5}'])
def test_what_is_no_job_is_not_there(tmp_path: Path, text: str) -> None:
    site = put(tmp_path)
    (tmp_path / "library" / "jobs" / f"{ID}.json").write_text(text)
    assert site.call("a", "GET", f"{JOBS}/{ID}").status_code == 404
    assert site.call("a", "GET", JOBS).json()["data"] == []


def test_what_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    """A directory cannot, also by root."""
    site = put(tmp_path)
    broken = "job-" + "b" * 16
    (tmp_path / "library" / "jobs" / f"{broken}.json").mkdir()
    assert [j["id"] for j in site.call("a", "GET", JOBS).json()["data"]] == [ID]
    assert site.call("a", "GET", f"{JOBS}/{broken}").status_code == 404
    assert Jobs(tmp_path / "library" / "jobs", 4).list()[0].id == ID


@pytest.mark.parametrize(
    "job_id",
    ["job-", "job-..", "..", "job-%2e%2e", "job-a%2f..%2fx", "../names/a", "job-*", "x", ".tmp-a",
     "job-" + "a" * 300, "job-\u0661", "job-a%00"],
)  # fmt: skip
def test_ids_that_no_job_has(tmp_path: Path, job_id: str) -> None:
    site = put(tmp_path)
    for method in ("GET", "DELETE"):
        assert site.call("a", method, f"{JOBS}/{job_id}").status_code in (404, 405)
    assert list((tmp_path / "library" / "jobs").glob("*.cancel")) == []


def test_jobs_without_a_name_of_a_key_count_against_none(tmp_path: Path) -> None:
    put(tmp_path, status="running", owner="a", updated_at=time.time())
    jobs = Jobs(tmp_path / "library" / "jobs", 4)
    assert jobs.unfinished == 0
