"""A list is given up at its first fault; what is right is taken as before."""

from typing import Any

import pytest
from fastapi import APIRouter
from pydantic import BaseModel

from steersman.server.chat.requests import SteeredChatRequest, SteeredResponsesRequest
from steersman.server.middleware import fail_fast

ROUTER = APIRouter()


class Tree(BaseModel):
    """Refers to itself."""

    name: str
    parts: list["Tree"] = []


@ROUTER.post("/chat")
def chat(request: SteeredChatRequest) -> None:
    pass


@ROUTER.post("/responses")
def responses(request: SteeredResponsesRequest) -> None:
    pass


@ROUTER.post("/tree")
def tree(request: Tree) -> None:
    pass


@ROUTER.get("/none")
def none() -> None:
    pass


fail_fast.install(ROUTER.routes)


def validated(path: str, body: Any) -> tuple[Any, int]:
    routes: list[Any] = [r for r in ROUTER.routes if getattr(r, "path", "") == path]
    (field,) = (route.body_field for route in routes)
    value, errors = field.validate(body, {}, loc=("body",))
    return value, len(errors or ())


@pytest.mark.parametrize("member", [[], {}, 0, "", {"role": 1}, {"role": "user", "content": [0]}])
@pytest.mark.parametrize(("path", "key"), [("/chat", "messages"), ("/responses", "input")])
def test_a_thousand_faults_are_no_more_than_one(path: str, key: str, member: Any) -> None:
    _, one = validated(path, {key: [member]})
    _, thousand = validated(path, {key: [member] * 1000})
    assert thousand <= one + 1
    if path == "/responses":
        assert one > 0


def test_what_is_right_is_taken() -> None:
    message = {"role": "user", "content": "Hi"}
    value, errors = validated("/chat", {"messages": [message] * 3, "steering": None})
    assert errors == 0
    assert value.messages == [message] * 3
    value, errors = validated("/responses", {"input": [message], "max_output_tokens": 3})
    assert (errors, value.max_output_tokens) == (0, 3)


def test_a_model_that_refers_to_itself() -> None:
    deep = {"name": "a", "parts": [{"name": "b", "parts": [{"name": "c"}]}]}
    value, errors = validated("/tree", deep)
    assert (errors, value.parts[0].parts[0].name) == (0, "c")
    bad = {"name": "a", "parts": [{"name": "b", "parts": [{}] * 100}, {}]}
    assert validated("/tree", bad)[1] == 1
