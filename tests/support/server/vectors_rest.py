"""REST for vectors as tests call it: an upload, and the shape of every error."""

from typing import Any

from fastapi.testclient import TestClient

LIMIT = 200_000
URL = "/v1/steering/vectors"


def upload(client: TestClient, data: bytes, name: str | None = None) -> Any:
    form = {} if name is None else {"name": name}
    return client.post(URL, files={"file": ("v.safetensors", data)}, data=form)


def assert_error(
    reply: Any, status: int, param: str | None = None, code: str | None = None
) -> None:
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
