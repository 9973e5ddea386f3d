"""REST for vectors, on a bare FastAPI app: every call, and every bad input."""

import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY
from starlette.testclient import TestClient

from server import errors, vectors_api
from server.limits import BodyLimit
from server.vectors_api import build_router
from tests.vectors.hostile import FILES
from tests.vectors.make import HIDDEN, raw_file, vector, vector_file
from tests.vectors.test_names import BAD_NAMES
from vectors.errors import LibraryError
from vectors.format import BaseModel, read_vector
from vectors.library import Library

LIMIT = 200_000
URL = "/v1/steering/vectors"


@pytest.fixture
def library(tmp_path):
    return Library(tmp_path, hidden_size=HIDDEN, num_layers=8)


@pytest.fixture
def events():
    return []


@pytest.fixture
def client(library, events):
    app = FastAPI()
    errors.install(app)
    app.include_router(build_router())
    app.add_middleware(BodyLimit, max_upload_bytes=2 * LIMIT)
    app.state.steersman = SimpleNamespace(
        library=library,
        max_upload_bytes=LIMIT,
        on_change=lambda event, name, _: events.append((event, name)),
        capabilities=lambda: {
            "version": "1", "model": "m", "num_layers": 8, "hidden_size": HIDDEN,
            "sites": ["resid_post"], "median_norms": None, "limits": {"max_vectors": 16},
        },
    )  # fmt: skip
    # A server error must come as an answer, as it would over HTTP.
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def upload(client, data, name=None):
    form = {} if name is None else {"name": name}
    return client.post(URL, files={"file": ("v.safetensors", data)}, data=form)


def assert_error(reply, status, param=None, code=None):
    assert reply.status_code == status, reply.text
    assert reply.json().keys() == {"error"}
    error = reply.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    assert isinstance(error["code"], str)
    assert error["type"] == {404: "not_found_error", 500: "server_error", 507: "server_error"}.get(
        status, "invalid_request_error"
    )
    if param is not None:
        assert error["param"] == param
    if code is not None:
        assert error["code"] == code


def test_upload_then_read(client, events):
    data = vector_file(
        description="d", method="caa", method_settings={"k": 1}, licence="MIT",
        base_model=BaseModel("m", HIDDEN, 8), norms={"resid_post.3": 2.0}, safe_range=(-2, 2),
        created_at="2025-01-01T00:00:00Z", positions={"start": 0, "stop": 4},
    )  # fmt: skip
    reply = upload(client, data, "cheerful")
    assert reply.status_code == 201
    shown = reply.json()
    assert client.get(f"{URL}/cheerful").json() == shown
    digest = read_vector(data).digest
    assert client.get(f"{URL}/cheerful@{digest[7:19]}").json() == shown
    assert isinstance(shown.pop("created_at"), int)
    assert isinstance(shown.pop("updated_at"), int)
    assert shown == {
        "id": "cheerful", "object": "steering.vector", "digest": digest, "description": "d",
        "method": "caa", "method_settings": {"k": 1}, "licence": "MIT",
        "base_model": {"id": "m", "hidden_size": HIDDEN, "num_layers": 8, "fingerprint": None},
        "base_model_matches": None, "fits": True, "misfit": None,
        "hidden_size": HIDDEN, "coefficient": 1.0, "layers": [3, 5],
        "positions": {"start": 0, "stop": 4}, "safe_range": [-2.0, 2.0],
        "norms": {"resid_post.3": 2.0}, "made_at": "2025-01-01T00:00:00Z", "bytes": len(data),
        "versions": [digest],
        "tensors": [
            {"name": f"resid_post.{n}", "site": "resid_post", "layer": n, "shape": [HIDDEN]}
            for n in (3, 5)
        ],
    }  # fmt: skip
    assert events == [("created", "cheerful")]


@pytest.fixture
def several(library):
    """The library, with a vector of another model in it."""
    other = Library(library.root, hidden_size=2 * HIDDEN)
    other.add(vector_file(hidden=2 * HIDDEN), "b-wide")
    for name in ("a", "c"):
        library.add(vector_file(), name)


def test_vectors_of_another_model_are_listed_as_such(client, several):
    listed = client.get(URL).json()["data"]
    assert [(v["id"], v["fits"], v["hidden_size"]) for v in listed] == [
        ("a", True, HIDDEN), ("b-wide", False, 2 * HIDDEN), ("c", True, HIDDEN),
    ]  # fmt: skip
    wide = client.get(f"{URL}/b-wide").json()
    assert wide == listed[1] | wide
    assert wide["base_model_matches"] is False
    assert f"hidden size {2 * HIDDEN}" in wide["misfit"]
    assert client.get(f"{URL}/b-wide/content").status_code == 200


@pytest.mark.parametrize(("fits", "names"), [("true", ["a", "c"]), ("false", ["b-wide"])])
def test_a_list_of_what_fits(client, several, fits, names):
    page = client.get(f"{URL}?fits={fits}&limit=1").json()
    found = [v["id"] for v in page["data"]]
    if page["has_more"]:
        page = client.get(f"{URL}?fits={fits}&limit=1&after={page['last_id']}").json()
        found += [v["id"] for v in page["data"]]
    assert found == names
    assert not page["has_more"]


@pytest.mark.parametrize("fits", ["", "1", "True", "yes"])
def test_fits_is_true_or_false(client, fits):
    assert_error(client.get(f"{URL}?fits={fits}"), 400, "fits", "invalid_query")


def test_a_list_leaves_out_what_may_be_long(client):
    upload(client, vector_file(method_settings={"k": 1}, norms={"resid_post.3": 2.0}), "a")
    whole = client.get(f"{URL}/a").json()
    (listed,) = client.get(URL).json()["data"]
    assert whole.keys() - listed.keys() == {"method_settings", "norms"}
    assert listed == {key: whole[key] for key in listed}


def test_a_page_of_a_list_is_bounded_in_bytes(client, monkeypatch):
    for n in range(7):
        assert upload(client, vector_file(n, description="d" * 1000), f"v{n}").status_code == 201
    size = len(client.get(f"{URL}?limit=1").content)
    monkeypatch.setattr(vectors_api, "MAX_PAGE_BYTES", 3 * size)
    names, after, pages = [], None, 0
    while True:
        answer = client.get(URL, params={"limit": 5, **({"after": after} if after else {})})
        assert len(answer.content) < 4 * size
        page = answer.json()
        names += [v["id"] for v in page["data"]]
        assert (page["first_id"], page["last_id"]) == (
            page["data"][0]["id"], page["data"][-1]["id"],
        )  # fmt: skip
        after, pages = page["last_id"], pages + 1
        if not page["has_more"]:
            break
    assert names == [f"v{n}" for n in range(7)]
    assert pages >= 3
    # One that is longer than a page by itself is a page of its own.
    monkeypatch.setattr(vectors_api, "MAX_PAGE_BYTES", 1)
    assert [v["id"] for v in client.get(URL).json()["data"]] == ["v0"]


def test_the_same_upload_again_is_200(client, events):
    first = upload(client, vector_file(), "a")
    again = upload(client, vector_file(), "a")
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert len(events) == 1


def test_the_name_may_come_from_the_file(client):
    assert upload(client, vector_file(name="own")).json()["id"] == "own"


def test_upload_without_any_name(client):
    assert_error(upload(client, vector_file()), 400, "name", "name_missing")


def test_other_content_under_the_same_name(client):
    upload(client, vector_file(0), "a")
    assert_error(upload(client, vector_file(1), "a"), 409, "name", "vector_exists")


@pytest.mark.parametrize(
    ("data", "param", "code"), [f[1:] for f in FILES], ids=[f[0] for f in FILES]
)
def test_bad_files(client, library, data, param, code):
    assert_error(upload(client, data, "x"), 400, param, code)
    assert library.list() == []


@pytest.mark.parametrize("name", [name for name in BAD_NAMES if name])
def test_bad_names(client, library, name):
    assert_error(upload(client, vector_file(), name), 400, "name", "invalid_name")
    assert library.list() == []


def test_a_name_that_is_no_text(client):
    body = (
        b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\n\xff\xfe\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        + vector_file() + b"\r\n--b--\r\n"
    )  # fmt: skip
    reply = client.post(
        URL, content=body, headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert_error(reply, 400, "name")


def test_a_vector_for_another_model(client):
    assert_error(upload(client, vector_file(hidden=768), "a"), 400, "file", "wrong_hidden_size")
    assert_error(upload(client, vector_file(layers=(8,)), "a"), 400, "file", "layer_out_of_range")


def test_uploads_over_the_limit(client, library):
    # The file is over its limit; then the whole body is over the middleware's.
    assert_error(upload(client, b"x" * (LIMIT + 1), "a"), 413, "file", "upload_too_large")
    assert_error(upload(client, b"x" * (3 * LIMIT), "a"), 413, "file", "upload_too_large")

    def body():
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        for _ in range(3 * LIMIT // 1000):
            yield b"x" * 1000

    reply = client.post(
        URL, content=body(), headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert_error(reply, 413, "file", "upload_too_large")
    assert library.list() == []


def test_the_route_counts_without_the_middleware(library):
    app = FastAPI()
    errors.install(app)
    app.include_router(build_router())
    app.state.steersman = SimpleNamespace(library=library, max_upload_bytes=LIMIT)
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
def test_bodies_that_are_no_upload(client, content, kind, param):
    headers = {} if kind is None else {"content-type": kind}
    assert_error(client.post(URL, content=content, headers=headers), 400, param)


def test_forms_with_the_wrong_parts(client):
    file = ("file", ("f", vector_file()))
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


def test_listing_in_pages(client):
    assert client.get(URL).json() == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False,
    }  # fmt: skip
    for n in range(5):
        upload(client, vector_file(n), f"v{n}")
    page = client.get(URL, params={"limit": 2}).json()
    assert [v["id"] for v in page["data"]] == ["v0", "v1"]
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("v0", "v1", True)
    page = client.get(URL, params={"limit": 1000, "after": "v1"}).json()
    assert [v["id"] for v in page["data"]] == ["v2", "v3", "v4"]
    assert page["has_more"] is False


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "", "1.5", "9" * 5000, "\u0663"])
def test_bad_limits(client, limit):
    assert_error(client.get(URL, params={"limit": limit}), 400, "limit")


def test_unknown_query(client):
    assert_error(client.get(URL, params={"order": "asc"}), 400, "order", "unknown_field")


WEIRD_IDS = [
    "a%2Fb", "..%2F..%2Fetc%2Fpasswd", "%2e%2e%2fx", "a@", "a@0123", "a@%F0%9F%98%80", "%00",
    "caf%C3%A9", "x" * 500, "%ff", "a%20b", "a@0123456789ab@x", "content", "a/content/b", ".hidden",
]  # fmt: skip


@pytest.mark.parametrize("vector_id", WEIRD_IDS)
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE", "GET content"])
def test_weird_ids_are_400_or_404(client, vector_id, method):
    verb, _, rest = method.partition(" ")
    url = f"{URL}/{vector_id}{'/content' if rest else ''}"
    content = b'{"description": "x"}' if verb == "PATCH" else None
    reply = client.request(verb, url, content=content)
    assert reply.status_code in (400, 404)
    assert_error(reply, reply.status_code, "id")


def test_a_newline_in_an_id_reaches_no_route(client):
    assert client.get(f"{URL}/%0d%0aX-Evil:1").status_code == 404


def test_unknown_vector(client):
    for reply in (
        client.get(f"{URL}/none"),
        client.get(f"{URL}/none/content"),
        client.patch(f"{URL}/none", json={"description": "x"}),
        client.delete(f"{URL}/none"),
    ):
        assert_error(reply, 404, "id", "vector_not_found")


def test_content_is_the_file(client):
    data = vector_file()
    digest = upload(client, data, "a").json()["digest"]
    reply = client.get(f"{URL}/a/content")
    assert (reply.status_code, reply.content) == (200, data)
    assert reply.headers["etag"] == f'"{digest}"'
    assert reply.headers["content-disposition"] == 'attachment; filename="a.safetensors"'
    assert reply.headers["content-type"] == "application/octet-stream"
    again = client.get(f"{URL}/a/content", headers={"if-none-match": f'W/"x", "{digest}"'})
    assert (again.status_code, again.content) == (304, b"")
    old = f"{URL}/a@{digest[7:19]}/content"
    client.patch(f"{URL}/a", json={"coefficient": 2})
    assert client.get(old).content == data
    assert client.get(f"{URL}/a/content").headers["etag"] != f'"{digest}"'


def test_patch(client, events):
    before = upload(client, vector_file(description="d"), "a").json()
    changes = {
        "description": "new", "coefficient": -2, "layers": [5], "safe_range": [-1, 1.5],
        "positions": {"start": -3, "stop": 4},
    }  # fmt: skip
    reply = client.patch(f"{URL}/a", json=changes)
    assert reply.status_code == 200
    after = reply.json()
    assert {key: after[key] for key in changes} == changes
    assert after["versions"] == [after["digest"], before["digest"]]
    assert client.get(f"{URL}/a").json() == after
    back = client.patch(f"{URL}/a", json={"digest": before["digest"]}).json()
    assert (back["digest"], back["layers"], back["description"]) == (
        before["digest"],
        [3, 5],
        "new",
    )
    assert [event for event, _ in events] == ["created", "updated", "updated"]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (b"", "body", "invalid_body"),
        (b"not json", "body", "invalid_body"),
        (b"\xff\xfe", "body", "invalid_body"),
        (b"[]", "body", "invalid_body"),
        (b"{}", "body", "invalid_body"),
        (b"[" * 100_000, "body", "invalid_body"),
        (b'{"description": "' + b"x" * (2 << 18) + b'"}', None, None),
        (b'{"name": "b"}', "name", "unknown_field"),
        (b'{"description": "x", "coeficient": 1}', "coeficient", "unknown_field"),
        (b'{"description": null}', "description", None),
        (b'{"description": 1}', "description", None),
        (b'{"coefficient": "2"}', "coefficient", None),
        (b'{"coefficient": true}', "coefficient", None),
        (b'{"coefficient": NaN}', "coefficient", None),
        (b'{"coefficient": Infinity}', "coefficient", None),
        (b'{"coefficient": 1e999}', "coefficient", None),
        (b'{"coefficient": 1e300}', "coefficient", None),
        (b'{"layers": []}', "layers", None),
        (b'{"layers": [4]}', "layers", "layer_not_in_vector"),
        (b'{"layers": ["3"]}', "layers", None),
        (b'{"layers": [1' + b"0" * 400 + b"]}", "layers", None),
        (b'{"layers": 3}', "layers", None),
        (b'{"positions": "here"}', "positions", None),
        (b'{"positions": {"start": 1}}', "positions", None),
        (b'{"positions": {"start": 1, "stop": 2, "step": 1}}', "positions", None),
        (b'{"positions": {"start": 2, "stop": 1}}', "positions", None),
        (b'{"safe_range": [1]}', "safe_range", None),
        (b'{"safe_range": [2, 1]}', "safe_range", None),
        (b'{"safe_range": [NaN, 1]}', "safe_range", None),
        (b'{"digest": "sha256:00"}', "digest", None),
        (b'{"digest": 5}', "digest", None),
    ],
)
def test_bad_patches_change_nothing(client, body, param, code):
    before = upload(client, vector_file(), "a").json()
    reply = client.patch(f"{URL}/a", content=body, headers={"content-type": "application/json"})
    if len(body) > 2 * LIMIT:
        assert_error(reply, 413)
    else:
        assert_error(reply, 400, param, code)
    assert client.get(f"{URL}/a").json() == before


def test_patch_to_a_digest_that_is_not_there(client):
    upload(client, vector_file(), "a")
    reply = client.patch(f"{URL}/a", json={"digest": "sha256:" + "0" * 64})
    assert_error(reply, 404, "digest", "vector_not_found")


def test_versions_are_read_only(client):
    digest = upload(client, vector_file(), "a").json()["digest"]
    assert_error(client.delete(f"{URL}/a@{digest[7:19]}"), 400, "id")
    assert_error(client.patch(f"{URL}/a@{digest[7:19]}", json={"description": "x"}), 400, "id")


def test_delete(client, events):
    upload(client, vector_file(), "a")
    reply = client.delete(f"{URL}/a")
    assert (reply.status_code, reply.json()) == (
        200, {"id": "a", "object": "steering.vector.deleted", "deleted": True},
    )  # fmt: skip
    assert_error(client.get(f"{URL}/a"), 404)
    assert_error(client.delete(f"{URL}/a"), 404)
    assert events == [("created", "a"), ("deleted", "a")]


def test_a_damaged_vector_is_404_and_can_be_deleted(client, library):
    upload(client, vector_file(), "a")
    library.resolve("a").path.write_bytes(b"")
    assert_error(client.get(f"{URL}/a"), 404, "id", "vector_damaged")
    assert_error(client.get(f"{URL}/a/content"), 404, "id", "vector_damaged")
    assert client.get(URL).json()["data"] == []
    assert client.delete(f"{URL}/a").status_code == 200


def test_a_full_disk_is_a_507_that_names_no_path(client, library, monkeypatch):
    def fail(*_args):
        raise OSError(28, "No space left on device", "/secret/path")

    monkeypatch.setattr("vectors.disk.os.replace", fail)
    reply = upload(client, vector_file(), "a")
    assert_error(reply, 507, code="library_full")
    assert "/" not in reply.json()["error"]["message"]
    monkeypatch.undo()
    assert upload(client, vector_file(), "a").status_code == 201


def test_capabilities(client):
    reply = client.get("/v1/steering/capabilities").json()
    assert reply["object"] == "steering.capabilities"
    assert (reply["num_layers"], reply["sites"]) == (8, ["resid_post"])


def test_64_uploads_and_deletes_at_once(client, library):
    for n in range(0, 64, 2):
        upload(client, vector_file(n), f"v{n}")

    def change(n):
        if n % 2:
            return upload(client, vector_file(n), f"v{n}").status_code
        return client.delete(f"{URL}/v{n}").status_code

    with ThreadPoolExecutor(64) as pool:
        statuses = list(pool.map(change, range(64)))
    assert statuses == [200, 201] * 32
    fresh = Library(library.root)
    assert [e.name for e in fresh.list()] == sorted(f"v{n}" for n in range(1, 64, 2))
    assert fresh.problems == {}
    for entry in fresh.list():
        assert read_vector(entry.path).digest == vector(int(entry.name[1:])).digest


def test_rejections_are_counted_by_reason(client):
    def count(reason):
        return REGISTRY.get_sample_value("steering_rejections_total", {"reason": reason}) or 0

    before = count("pickle"), count("header_too_large")
    upload(client, b"PK\x03\x04" + b"x" * 90, "a")
    upload(client, raw_file(b"{}", announced=90 << 20), "a")
    assert (count("pickle"), count("header_too_large")) == (before[0] + 1, before[1] + 1)


def test_openapi_shows_types_and_every_reference_resolves(client):
    document = client.get("/openapi.json").json()
    text = json.dumps(document)
    for part in text.split('"$ref": "#/')[1:]:
        found = document
        for key in part.split('"')[0].split("/"):
            found = found[key]
    paths = document["paths"]
    assert paths.keys() == {
        "/v1/steering/capabilities", URL, f"{URL}/{{vector_id}}", f"{URL}/{{vector_id}}/content",
    }  # fmt: skip
    assert paths[f"{URL}/{{vector_id}}"].keys() == {"get", "patch", "delete"}
    body = paths[f"{URL}/{{vector_id}}"]["patch"]["requestBody"]["content"]["application/json"]
    assert body["schema"]["properties"].keys() == {
        "description", "coefficient", "layers", "positions", "safe_range", "digest",
    }  # fmt: skip
    assert {p["name"] for p in paths[URL]["get"]["parameters"]} == {"after", "limit", "fits"}
    assert "201" in paths[URL]["post"]["responses"]


def test_an_error_with_retry_after_says_so():
    class Busy(LibraryError):
        retry_after = 7

    reply = errors.response(Busy("later"))
    assert reply.headers["retry-after"] == "7"
    assert errors.status_of(Busy("x")) == 500
    assert errors.status_of(ValueError("x")) == 500
