"""REST for vectors, on a bare FastAPI app: list, read, change and delete, and every bad input."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from steersman.server import error_response
from steersman.server.library import routes as vectors_api
from steersman.vectors.errors import LibraryError
from steersman.vectors.file.format import BaseModel, read_vector
from steersman.vectors.library.library import Library
from tests.support.server.vectors_rest import LIMIT, URL, assert_error, upload
from tests.support.vectors.make import HIDDEN, vector_file


def test_upload_then_read(client: TestClient, events: list[tuple[str, str]]) -> None:
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
        "operation": "add", "operation_settings": {},
        "norms": {"resid_post.3": 2.0}, "made_at": "2025-01-01T00:00:00Z", "bytes": len(data),
        "versions": [digest],
        "tensors": [
            {"name": f"resid_post.{n}", "site": "resid_post", "layer": n, "shape": [HIDDEN]}
            for n in (3, 5)
        ],
    }  # fmt: skip
    assert events == [("created", "cheerful")]


@pytest.fixture
def several(library: Library) -> None:
    """The library, with a vector of another model in it."""
    other = Library(library.root, hidden_size=2 * HIDDEN)
    other.add(vector_file(hidden=2 * HIDDEN), "b-wide")
    for name in ("a", "c"):
        library.add(vector_file(), name)


def test_vectors_of_another_model_are_listed_as_such(client: TestClient, several: None) -> None:
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
def test_a_list_of_what_fits(
    client: TestClient, several: None, fits: str, names: list[Any]
) -> None:
    page = client.get(f"{URL}?fits={fits}&limit=1").json()
    found = [v["id"] for v in page["data"]]
    if page["has_more"]:
        page = client.get(f"{URL}?fits={fits}&limit=1&after={page['last_id']}").json()
        found += [v["id"] for v in page["data"]]
    assert found == names
    assert not page["has_more"]


@pytest.mark.parametrize("fits", ["", "1", "True", "yes"])
def test_fits_is_true_or_false(client: TestClient, fits: str) -> None:
    assert_error(client.get(f"{URL}?fits={fits}"), 400, "fits", "invalid_query")


def test_a_list_leaves_out_what_may_be_long(client: TestClient) -> None:
    upload(client, vector_file(method_settings={"k": 1}, norms={"resid_post.3": 2.0}), "a")
    whole = client.get(f"{URL}/a").json()
    (listed,) = client.get(URL).json()["data"]
    assert whole.keys() - listed.keys() == {"method_settings", "norms"}
    assert listed == {key: whole[key] for key in listed}


def test_a_page_of_a_list_is_bounded_in_bytes(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_listing_in_pages(client: TestClient) -> None:
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
def test_bad_limits(client: TestClient, limit: str) -> None:
    assert_error(client.get(URL, params={"limit": limit}), 400, "limit")


def test_unknown_query(client: TestClient) -> None:
    assert_error(client.get(URL, params={"order": "asc"}), 400, "order", "unknown_field")


WEIRD_IDS = [
    "a%2Fb", "..%2F..%2Fetc%2Fpasswd", "%2e%2e%2fx", "a@", "a@0123", "a@%F0%9F%98%80", "%00",
    "caf%C3%A9", "x" * 500, "%ff", "a%20b", "a@0123456789ab@x", "content", "a/content/b", ".hidden",
]  # fmt: skip


@pytest.mark.parametrize("vector_id", WEIRD_IDS)
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE", "GET content"])
def test_weird_ids_are_400_or_404(client: TestClient, vector_id: Any, method: str) -> None:
    verb, _, rest = method.partition(" ")
    url = f"{URL}/{vector_id}{'/content' if rest else ''}"
    content = b'{"description": "x"}' if verb == "PATCH" else None
    reply = client.request(verb, url, content=content)
    assert reply.status_code in (400, 404)
    assert_error(reply, reply.status_code, "id")


def test_a_newline_in_an_id_reaches_no_route(client: TestClient) -> None:
    assert client.get(f"{URL}/%0d%0aX-Evil:1").status_code == 404


def test_unknown_vector(client: TestClient) -> None:
    for reply in (
        client.get(f"{URL}/none"),
        client.get(f"{URL}/none/content"),
        client.patch(f"{URL}/none", json={"description": "x"}),
        client.delete(f"{URL}/none"),
    ):
        assert_error(reply, 404, "id", "vector_not_found")


def test_content_is_the_file(client: TestClient) -> None:
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


def test_patch(client: TestClient, events: list[tuple[str, str]]) -> None:
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
def test_bad_patches_change_nothing(
    client: TestClient, body: bytes, param: str | None, code: str | None
) -> None:
    before = upload(client, vector_file(), "a").json()
    reply = client.patch(f"{URL}/a", content=body, headers={"content-type": "application/json"})
    if len(body) > 2 * LIMIT:
        assert_error(reply, 413)
    else:
        assert_error(reply, 400, param, code)
    assert client.get(f"{URL}/a").json() == before


def test_patch_to_a_digest_that_is_not_there(client: TestClient) -> None:
    upload(client, vector_file(), "a")
    reply = client.patch(f"{URL}/a", json={"digest": "sha256:" + "0" * 64})
    assert_error(reply, 404, "digest", "vector_not_found")


def test_versions_are_read_only(client: TestClient) -> None:
    digest = upload(client, vector_file(), "a").json()["digest"]
    assert_error(client.delete(f"{URL}/a@{digest[7:19]}"), 400, "id")
    assert_error(client.patch(f"{URL}/a@{digest[7:19]}", json={"description": "x"}), 400, "id")


def test_delete(client: TestClient, events: list[tuple[str, str]]) -> None:
    upload(client, vector_file(), "a")
    reply = client.delete(f"{URL}/a")
    assert (reply.status_code, reply.json()) == (
        200, {"id": "a", "object": "steering.vector.deleted", "deleted": True},
    )  # fmt: skip
    assert_error(client.get(f"{URL}/a"), 404)
    assert_error(client.delete(f"{URL}/a"), 404)
    assert events == [("created", "a"), ("deleted", "a")]


def test_a_damaged_vector_is_404_and_can_be_deleted(client: TestClient, library: Library) -> None:
    upload(client, vector_file(), "a")
    library.resolve("a").path.write_bytes(b"")
    assert_error(client.get(f"{URL}/a"), 404, "id", "vector_damaged")
    assert_error(client.get(f"{URL}/a/content"), 404, "id", "vector_damaged")
    assert client.get(URL).json()["data"] == []
    assert client.delete(f"{URL}/a").status_code == 200


def test_capabilities(client: TestClient) -> None:
    reply = client.get("/v1/steering/capabilities").json()
    assert reply["object"] == "steering.capabilities"
    assert (reply["num_layers"], reply["sites"]) == (8, ["resid_post"])


def test_openapi_shows_types_and_every_reference_resolves(client: TestClient) -> None:
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


def test_an_error_with_retry_after_says_so() -> None:
    class Busy(LibraryError):
        retry_after = 7

    reply = error_response.response(Busy("later"))
    assert reply.headers["retry-after"] == "7"
    assert error_response.status_of(Busy("x")) == 500
    assert error_response.status_of(ValueError("x")) == 500
