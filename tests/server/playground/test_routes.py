"""The files of `/playground`, and the headers that they are sent with."""

import gzip
import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from steersman.server import error_response
from steersman.server.playground.routes import BUILT, build_router, read_files

FILES = read_files()


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    error_response.install(app)
    app.include_router(build_router(FILES))
    return TestClient(app)


def policy(client: TestClient) -> dict[str, list[str]]:
    header = client.get("/playground").headers["content-security-policy"]
    return {key: values for key, *values in map(str.split, header.split(";"))}


def test_every_file_is_sent_as_it_was_built(client: TestClient) -> None:
    assert {"index.html", "app.js", "app.css", "icon.svg"} <= FILES.keys()
    for name in FILES:
        answer = client.get(f"/playground/{name}")
        assert answer.status_code == 200
        assert answer.content == (BUILT / name).read_bytes()
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/playground").content == (BUILT / "index.html").read_bytes()


def test_nothing_unsafe_and_no_other_host_is_allowed(client: TestClient) -> None:
    said = policy(client)
    assert said["default-src"] == ["'none'"]
    assert said["connect-src"] == ["'self'"]
    assert said["frame-ancestors"] == ["'none'"]
    allowed = {value for values in said.values() for value in values}
    assert allowed == {"'none'", "'self'", "'script'"}


def test_the_page_has_no_script_and_no_style_of_its_own() -> None:
    page = FILES["index.html"].plain.decode()
    assert re.findall(r"<script(?![^>]* src=)", page) == []
    assert "<style" not in page
    assert " style=" not in page
    assert re.findall(r"""(?:src|href)=["'](?!playground/)[^"']*""", page) == []


def test_a_file_that_is_known_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/playground/app.js")
    again = client.get("/playground/app.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert "content-security-policy" in again.headers
    other = client.get("/playground/app.js", headers={"If-None-Match": '"another"'})
    assert other.status_code == 200


def test_text_is_zipped_for_those_who_take_it(client: TestClient) -> None:
    zipped = client.get("/playground/app.js", headers={"Accept-Encoding": "gzip"})
    plain = client.get("/playground/app.js", headers={"Accept-Encoding": "identity"})
    assert zipped.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert zipped.content == plain.content
    assert zipped.headers["etag"] != plain.headers["etag"]
    assert FILES["app.js"].zipped is not None
    assert gzip.decompress(FILES["app.js"].zipped) == plain.content


def test_heads_have_no_body(client: TestClient) -> None:
    answer = client.head("/playground")
    assert (answer.status_code, answer.content) == (200, b"")


def test_a_slash_behind_the_address_leads_to_it(client: TestClient) -> None:
    answer = client.get("/playground/", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (308, "../playground")
    assert client.get("/playground/").content == FILES["index.html"].plain


@pytest.mark.parametrize("name", ["nothing.js", "..%2froutes.py", "../routes.py", "built/app.js"])
def test_no_other_file_is_reached(client: TestClient, name: str) -> None:
    answer = client.get(f"/playground/{name}")
    assert answer.status_code == 404


def test_a_page_that_was_not_built_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="make playground"):
        read_files(tmp_path)
