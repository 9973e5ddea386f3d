"""The routes on a bare FastAPI app: hostile files, and what is told at once."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from steersman.server import error_response
from steersman.server.extraction.api import build_router, prepare
from steersman.server.extraction.jobs import Jobs
from steersman.vectors.errors import VectorInvalid
from tests.support.server.extraction import Engine, Tokenizer, make_context

EXTRACT = "/v1/steering/vectors/extract"
JOBS = "/v1/steering/jobs"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    app = FastAPI()
    error_response.install(app)
    app.include_router(build_router())
    context = make_context(tmp_path, Engine())
    app.state.steersman = SimpleNamespace(
        jobs=Jobs(tmp_path / "jobs", 4),
        extraction_for=lambda _: context,
        max_extract_rows_for=lambda _: 100,
    )
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def upload(client: TestClient, lines: list[str], **request: Any) -> Any:
    return client.post(
        EXTRACT,
        data={"request": json.dumps({"name": "x", "method": "mean_difference", **request})},
        files={"file": ("rows.jsonl", "\n".join(lines).encode())},
    )


def test_hostile_lines_are_bad_rows_and_the_books_stay_readable(client: TestClient) -> None:
    lines = [
        "[" * 100_000,
        '{"text": "", "label": "\\ud800"}',
        '{"text": "half \\ud800", "label": "positive"}',
        json.dumps({"text": "", "label": "y" * 1_000_000}),
        '{"text": ' + "9" * 5000 + ', "label": "negative"}',
        *(json.dumps({"positive": f"glad {n}", "negative": f"sad {n}"}) for n in range(4)),
    ]
    answer = upload(client, lines)
    assert answer.status_code == 202, answer.text
    for _ in range(200):
        listed = client.get(JOBS)
        assert listed.status_code == 200
        (job,) = listed.json()["data"]
        if job["status"] not in ("queued", "running"):
            break
        time.sleep(0.02)
    assert job["status"] == "succeeded", job
    assert [bad["row"] for bad in job["bad_rows"]] == [1, 2, 3, 4, 5]
    assert len(listed.content) < 3000


def test_more_steps_than_the_library_takes_are_refused_before_the_work(client: TestClient) -> None:
    app: Any = client.app
    state = app.state.steersman
    context = replace(state.extraction_for(None), max_steps=8)
    state.extraction_for = lambda _: context
    body = {"name": "x", "method": "per_step", "positive": ["a"] * 4, "negative": ["b"] * 4}
    for steps in ({"steps": 9}, {}):
        answer = client.post(EXTRACT, json=body | steps)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["param"], error["code"]) == ("steps", "too_many_steps")
        assert "--max-steps" in error["message"]
    assert client.get(JOBS).json()["data"] == []
    assert client.post(EXTRACT, json=body | {"steps": 8}).status_code == 202


def test_brackets_without_end_in_the_body(client: TestClient) -> None:
    body = '{"name": "x", "method": "caa", "pairs": %s' % ("[" * 100_000)
    answer = client.post(EXTRACT, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400


@pytest.mark.parametrize("method", ["caa", "repe"])
def test_texts_without_a_counterpart_are_told_at_once(client: TestClient, method: str) -> None:
    request = {"name": "x", "positive": ["(A)"] * 3, "negative": ["(B)"] * 2}
    answer = client.post(EXTRACT, json={**request, "method": method})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unpaired")
    assert client.get(JOBS).json()["data"] == []


CHATS = [[[{"role": "user", "content": f"{side} {n}"}] for side in "ab"] for n in range(4)]


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        ({"pairs": [["a b", "c d"]] * 4, "prompt": "Well?"}, "prompt"),
        ({"pairs": CHATS}, "pairs"),
        ({"pairs": [{"positive": "a b", "negative": f"c {n}", "prompt": "So?"} for n in range(4)]},
         "pairs"),
    ],
)  # fmt: skip
def test_a_missing_chat_template_is_one_error_at_once(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, request_: dict[str, Any], param: str
) -> None:
    def missing(*_: Any, **__: Any) -> str:
        raise ValueError("Cannot use chat template functions: there is none")

    monkeypatch.setattr(Tokenizer, "apply_chat_template", missing)
    answer = client.post(EXTRACT, json={"name": "x", "method": "mean_difference", **request_})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "no_chat_template", param)
    assert "--chat-template" in error["message"]
    assert client.get(JOBS).json()["data"] == []


def test_plain_texts_need_no_chat_template(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Tokenizer, "apply_chat_template")
    pairs = [[f"glad {n}", f"sad {n}"] for n in range(4)]
    answer = client.post(EXTRACT, json={"name": "x", "method": "mean_difference", "pairs": pairs})
    assert answer.status_code == 202


SAME = [{"role": "user", "content": "Well?"}]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"pairs": [["a b", "c d"]]}, "too_few_rows"),
        ({"pairs": [["a b", "c d"], ["", "e f"]], "method": "repe"}, "too_few_rows"),
        ({"positive": ["", " ", "a b"], "negative": ["c d", "e f"]}, "too_few_rows"),
        ({"positive": ["a b", "c d", "e f"]}, "too_few_rows"),
        ({"styles": {"a": ["b c", "d e"]}, "method": "style"}, "too_few_rows"),
        ({"styles": {"a": ["b c", "d e"], "f": ["g h"]}, "method": "style"}, "too_few_rows"),
        ({"styles": {"a": ["b c", "d e"], "f": ["d e", "b c"]}, "method": "style"},
         "identical_sides"),
        ({"pairs": [["a b", "a b"], ["c d", "c d"]]}, "identical_sides"),
        ({"pairs": [[SAME, SAME]] * 4, "method": "repe"}, "identical_sides"),
        ({"positive": ["a b", "c d"], "negative": ["c d", "a b"]}, "identical_sides"),
    ],
)  # fmt: skip
def test_texts_of_which_nothing_can_come(
    client: TestClient, request_: dict[str, Any], code: str
) -> None:
    answer = client.post(EXTRACT, json={"name": "x", "method": "mean_difference", **request_})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code), answer.text
    assert client.get(JOBS).json()["data"] == []


def test_a_file_of_one_label(client: TestClient) -> None:
    lines = [json.dumps({"text": f"text {n}", "label": "positive"}) for n in range(5)]
    answer = upload(client, lines)
    assert answer.status_code == 400
    assert "'negative' has 0 texts" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "code"),
    [({"tries": False}, "not_supported"), ({"operations": ("add",)}, "operation_not_served")],
)
def test_a_method_that_this_server_cannot_try_is_refused_at_once(
    tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    context = replace(make_context(tmp_path, Engine()), **change)
    body = {"name": "x", "method": "directional_ablation"}
    texts = {"positive": ["a", "b"], "negative": ["c", "d"]}
    with pytest.raises(VectorInvalid) as caught:
        prepare(json.dumps(body | texts), None, 100, context)
    assert (caught.value.param, caught.value.code) == ("method", code)
    prepare(json.dumps(body | texts), None, 100, make_context(tmp_path, Engine()))
