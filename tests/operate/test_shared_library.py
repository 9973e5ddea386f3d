"""Two servers on one directory: what one changes, the other knows with its next request."""

from collections.abc import Callable

import pytest

from tests.support.http.client import Client

pytestmark = pytest.mark.engine
Clients = Callable[[int, str | None], Client]


def test_each_sees_the_others_vectors(clients: Clients, make_vector: Callable[..., bytes]) -> None:
    one, two = clients(0, "admin"), clients(1, "admin")
    assert one.upload(make_vector(200), "shared").status_code == 201
    plain = two.chat_text()
    first = two.chat(steering={"vectors": {"shared": 4.0}})
    assert first.status_code == 200, first.text
    digest = first.json()["steering"]["vectors"][0]["digest"]

    patched = two.http.patch("/v1/steering/vectors/shared", json={"coefficient": 3.0})
    assert patched.status_code == 200
    then = one.chat(steering={"vectors": [{"id": "shared"}]})
    receipt = then.json()["steering"]["vectors"][0]
    assert (receipt["coefficient"], receipt["digest"]) == (3.0, patched.json()["digest"])
    assert receipt["digest"] != digest

    assert one.http.delete("/v1/steering/vectors/shared").status_code == 200
    assert two.chat(steering={"vectors": {"shared": 4.0}}).status_code == 400
    assert two.chat_text() == plain


def test_of_two_that_take_one_name_one_has_it(
    clients: Clients, make_vector: Callable[..., bytes]
) -> None:
    one, two = clients(0, "admin"), clients(1, "admin")
    assert one.upload(make_vector(201), "mine").status_code == 201
    taken = two.upload(make_vector(202), "mine")
    assert (taken.status_code, taken.json()["error"]["code"]) == (409, "vector_exists")
    assert two.upload(make_vector(201), "mine").status_code == 200
    assert two.http.delete("/v1/steering/vectors/mine").status_code == 200


def test_each_tells_of_the_others_jobs(clients: Clients) -> None:
    texts = {"positive": ["I am glad"] * 4, "negative": ["I am sad"] * 4}
    body = {"name": "by-two", "method": "mean_difference", "layers": [10], **texts}
    job = clients(0, "admin").http.post("/v1/steering/vectors/extract", json=body).json()["id"]
    seen = clients(1, "admin").http.get(f"/v1/steering/jobs/{job}")
    assert (seen.status_code, seen.json()["name"]) == (200, "by-two")
    assert job in clients(1, "admin").http.get("/v1/steering/jobs").text
