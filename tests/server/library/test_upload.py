"""Uploads of vectors over REST, on a bare FastAPI app: what is accepted, and every bad input."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY
from starlette.testclient import TestClient

from steersman.server import error_response
from steersman.server.library.routes import build_router
from steersman.vectors.file.format import read_vector
from steersman.vectors.library.library import Library
from tests.support.server.vectors_rest import LIMIT, URL, assert_error, upload
from tests.support.vectors.hostile import FILES
from tests.support.vectors.make import raw_file, vector, vector_file
from tests.vectors.library.test_names import BAD_NAMES


def test_the_same_upload_again_is_200(client: TestClient, events: list[tuple[str, str]]) -> None:
    first = upload(client, vector_file(), "a")
    again = upload(client, vector_file(), "a")
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert len(events) == 1


def test_the_name_may_come_from_the_file(client: TestClient) -> None:
    assert upload(client, vector_file(name="own")).json()["id"] == "own"


def test_upload_without_any_name(client: TestClient) -> None:
    assert_error(upload(client, vector_file()), 400, "name", "name_missing")


def test_other_content_under_the_same_name(client: TestClient) -> None:
    upload(client, vector_file(0), "a")
    assert_error(upload(client, vector_file(1), "a"), 409, "name", "vector_exists")


@pytest.mark.parametrize(
    ("data", "param", "code"), [f[1:] for f in FILES], ids=[f[0] for f in FILES]
)
def test_bad_files(client: TestClient, library: Library, data: Any, param: Any, code: Any) -> None:
    assert_error(upload(client, data, "x"), 400, param, code)
    assert library.list() == []


@pytest.mark.parametrize("name", [name for name in BAD_NAMES if name])
def test_bad_names(client: TestClient, library: Library, name: Any) -> None:
    assert_error(upload(client, vector_file(), name), 400, "name", "invalid_name")
    assert library.list() == []


def test_a_name_that_is_no_text(client: TestClient) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\n\xff\xfe\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        + vector_file() + b"\r\n--b--\r\n"
    )  # fmt: skip
    reply = client.post(
        URL, content=body, headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert_error(reply, 400, "name")


def test_a_vector_for_another_model(client: TestClient) -> None:
    assert_error(upload(client, vector_file(hidden=768), "a"), 400, "file", "wrong_hidden_size")
    assert_error(upload(client, vector_file(layers=(8,)), "a"), 400, "file", "layer_out_of_range")


def test_uploads_over_the_limit(client: TestClient, library: Library) -> None:
    # The file is over its limit; then the whole body is over the middleware's.
    assert_error(upload(client, b"x" * (LIMIT + 1), "a"), 413, "file", "upload_too_large")
    assert_error(upload(client, b"x" * (3 * LIMIT), "a"), 413, "file", "upload_too_large")

    def body() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        for _ in range(3 * LIMIT // 1000):
            yield b"x" * 1000

    reply = client.post(
        URL, content=body(), headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert_error(reply, 413, "file", "upload_too_large")
    assert library.list() == []


def test_the_route_counts_without_the_middleware(library: Library) -> None:
    app = FastAPI()
    error_response.install(app)
    app.include_router(build_router())
    app.state.steersman = SimpleNamespace(
        library_for=lambda _: library,
        max_upload_bytes=LIMIT,
        on_change=None,
        capabilities_for=lambda _: {"num_layers": 3},
    )
    with TestClient(app) as client:
        assert_error(upload(client, b"x" * (2 * LIMIT), "a"), 413, "file", "upload_too_large")


@pytest.mark.parametrize(
    ("content", "kind", "param"),
    [
        (b"", None, "file"),
        (b"{}", "application/json", "file"),
        (b"", "multipart/form-data", "file"),
        (b"", "multipart/form-data; boundary=b", "file"),
        (b"junk", "multipart/form-data; boundary=b", "file"),
        (b"--b\r\n\r\n\r\n--b--", "multipart/form-data; boundary=b", "file"),
        (b"file=x", "application/x-www-form-urlencoded", "file"),
    ],
)
def test_bodies_that_are_no_upload(
    client: TestClient, content: bytes, kind: str | None, param: str
) -> None:
    headers = {} if kind is None else {"content-type": kind}
    assert_error(client.post(URL, content=content, headers=headers), 400, param)


def test_forms_with_the_wrong_parts(client: TestClient) -> None:
    file = ("file", ("f", vector_file()))
    parts: Any
    for parts, param, code in (
        ([("file", (None, "text"))], "file", "file_missing"),
        ([("name", ("f", b"a"))], "file", "file_missing"),
        ([file, ("nmae", (None, "a"))], "nmae", "unknown_field"),
        ([("upload", file[1])], "upload", "unknown_field"),
        ([file, file], "file", "bad_form"),
        ([file, ("name", (None, "a")), ("name", (None, "a"))], "name", "bad_form"),
        ([file, ("name", (None, "a" * 9000))], "file", "bad_form"),
    ):
        assert_error(client.post(URL, files=parts), 400, param, code)


def test_a_full_disk_is_a_507_that_names_no_path(
    client: TestClient, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: Any) -> None:
        raise OSError(28, "No space left on device", "/secret/path")

    monkeypatch.setattr("steersman.vectors.library.disk.os.replace", fail)
    reply = upload(client, vector_file(), "a")
    assert_error(reply, 507, code="library_full")
    assert "/" not in reply.json()["error"]["message"]
    monkeypatch.undo()
    assert upload(client, vector_file(), "a").status_code == 201


def test_64_uploads_and_deletes_at_once(client: TestClient, library: Library) -> None:
    for n in range(0, 64, 2):
        upload(client, vector_file(n), f"v{n}")

    def change(n: int) -> int:
        if n % 2:
            return int(upload(client, vector_file(n), f"v{n}").status_code)
        return client.delete(f"{URL}/v{n}").status_code

    with ThreadPoolExecutor(64) as pool:
        statuses = list(pool.map(change, range(64)))
    assert statuses == [200, 201] * 32
    fresh = Library(library.root)
    assert [e.name for e in fresh.list()] == sorted(f"v{n}" for n in range(1, 64, 2))
    assert fresh.problems == {}
    for entry in fresh.list():
        assert read_vector(entry.path).digest == vector(int(entry.name[1:])).digest


def test_rejections_are_counted_by_reason(client: TestClient) -> None:
    def count(reason: Any) -> float:
        return REGISTRY.get_sample_value("steering_rejections_total", {"reason": reason}) or 0

    before = count("pickle"), count("header_too_large")
    upload(client, b"PK\x03\x04" + b"x" * 90, "a")
    upload(client, raw_file(b"{}", announced=90 << 20), "a")
    assert (count("pickle"), count("header_too_large")) == (before[0] + 1, before[1] + 1)
