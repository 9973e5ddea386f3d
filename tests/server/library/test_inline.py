"""Vectors in requests, without an engine: what is taken, what is refused, where they are kept."""

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from steersman.server.auth.permissions import INFER, INLINE, READ
from steersman.steering.vllm.worker.loading import VectorFiles, object_path
from steersman.vectors.library.sent import KEPT_FOR_S
from tests.support.server.host import PRESETS, Site, content
from tests.support.server.keys import entry, write

ANYBODY = ""


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def use(data: bytes, **more: Any) -> dict[str, Any]:
    return {"vectors": [{"data": text(data), **more}]}


def error(answer: Any) -> tuple[int, str, str]:
    found = answer.json()["error"]
    return answer.status_code, found["code"], found["param"]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "library", None, max_inline_bytes=20_000, max_inline_cache_bytes=2_000)


def test_it_steers_as_the_same_vector_of_the_library_does(site: Site) -> None:
    data = content(1, coefficient=0.5)
    site.upload(ANYBODY, data, "glad")
    by_id = site.steer(ANYBODY, {"vectors": [{"id": "glad"}]}).json()["steering"]
    sent = site.steer(ANYBODY, use(data)).json()["steering"]
    digest = by_id[0]["digest"]
    assert sent == [{**by_id[0], "id": f"data:{digest[7:19]}"}]
    assert site.steer(ANYBODY, use(data, coefficient=2.0)).json()["steering"][0]["coefficient"] == 2


def test_workers_find_it_and_no_list_has_it(site: Site, tmp_path: Path) -> None:
    library = tmp_path / "library"
    (receipt,) = site.steer(ANYBODY, use(content(1))).json()["steering"]
    digest = receipt["digest"]
    assert object_path(library, digest).parent.name == "sent"
    assert len(VectorFiles(library).read(digest)) == 1
    assert site.names(ANYBODY) == []
    for id_ in (receipt["id"], digest, digest[7:]):
        assert site.steer(ANYBODY, {"vectors": [{"id": id_}]}).status_code == 400
    # Uploaded, it is the library's.
    site.upload(ANYBODY, content(1), "glad")
    assert object_path(library, digest).parent.name == "objects"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("!!!", (400, "invalid_base64")),
        ("", (400, None)),
        ("aGVsbG8=", (400, None)),
        (text(b"\x80\x04K\x01."), (400, None)),
        (text(b"\x00" * 10_000), (400, None)),
        ("A" * 40_000, (413, "inline_too_large")),
        (None, (400, "missing_field")),
        (3, (400, "invalid_steering")),
    ],
)
def test_what_is_no_vector(site: Site, value: Any, found: tuple[int, str | None]) -> None:
    answer = site.steer(ANYBODY, {"vectors": [{"data": value}]})
    status, code, param = error(answer)
    assert status == found[0]
    assert found[1] in (None, code)
    assert param == f"steering.vectors[0].{'id' if value is None else 'data'}"
    assert "safetensors" in answer.json()["error"]["message"] or status == 413 or value in (None, 3)


def test_a_vector_of_another_model_names_the_key(site: Site) -> None:
    import torch

    from steersman.vectors.file.format import SteeringVector, write_vector
    from steersman.vectors.tensors import HookPoint

    wide = write_vector(SteeringVector({HookPoint("resid_post", 1): torch.ones(999)}))
    assert error(site.steer(ANYBODY, use(wide)))[::2] == (400, "steering.vectors[0].data")
    both = {"vectors": [{"id": "glad", "data": text(content(1))}]}
    assert error(site.steer(ANYBODY, both)) == (400, "invalid_steering", "steering.vectors[0]")


def test_it_keeps_to_its_room(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "library" / "sent"
    size = len(content(0))
    kept = 2_000 // size
    assert 1 <= kept < 20
    for n in range(kept):
        assert site.steer(ANYBODY, use(content(n))).status_code == 200
    # All of them may be needed by requests in flight of other servers.
    full = site.steer(ANYBODY, use(content(90)))
    assert error(full)[:2] == (503, "inline_cache_full")
    assert full.headers["Retry-After"]
    for path in folder.iterdir():
        old = time.time() - KEPT_FOR_S - 9
        os.utime(path, (old, old))
    assert site.steer(ANYBODY, use(content(0))).status_code == 200
    assert site.steer(ANYBODY, use(content(91))).status_code == 200
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 2_000
    # One that went comes back with its request.
    for path in folder.iterdir():
        path.unlink()
    assert site.steer(ANYBODY, use(content(91))).status_code == 200
    assert len(list(folder.iterdir())) == 1


def test_what_runs_is_not_removed(site: Site, tmp_path: Path) -> None:
    from steersman.steering.plan import BankKey

    folder = tmp_path / "library" / "sent"
    (receipt,) = site.steer(ANYBODY, use(content(1))).json()["steering"]
    site.state.in_flight.enter(frozenset({BankKey(receipt["digest"], "resid_post", 1, 0)}), 0)
    for n in range(2, 20):
        for path in folder.iterdir():
            os.utime(path, (1, 1))
        assert site.steer(ANYBODY, use(content(n))).status_code == 200
    assert object_path(tmp_path / "library", receipt["digest"]).exists()


def test_keys_need_the_scope_and_the_operator_may_close_it(tmp_path: Path) -> None:
    keys = write(
        tmp_path / "keys.yaml",
        entry("bob", INFER, READ),
        entry("ann", INFER, INLINE, vectors=["a-*"]),
    )
    site = Site(tmp_path / "library", keys)
    answer = site.steer("bob", use(content(1)))
    assert error(answer) == (403, "scope_missing", "steering.vectors[0].data")
    assert site.steer("ann", use(content(1))).status_code == 200
    closed = Site(tmp_path / "other", None, inline_vectors=False)
    answer = closed.steer(ANYBODY, use(content(1)))
    assert error(answer) == (403, "inline_vectors_off", "steering.vectors[0].data")
    assert not (tmp_path / "other" / "sent").exists()


def test_doses_bind_it_and_presets_do_not_hold_it(tmp_path: Path) -> None:
    site = Site(tmp_path / "library", None, max_relative_dose=0.5)
    answer = site.steer(ANYBODY, use(content(1, size=10.0)))
    assert error(answer) == (400, "dose_over_limit", "steering.vectors[0].coefficient")
    body = json.dumps({"name": "p", "steering": use(content(1))})
    answer = site.call(ANYBODY, "POST", PRESETS, content=body)
    assert error(answer) == (400, "not_supported", "steering.vectors[0].data")
