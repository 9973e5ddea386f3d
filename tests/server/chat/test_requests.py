"""How many sequences answer a request, and the counts that its stream is asked for."""

from typing import Any

import pytest

from steersman.server.chat.requests import (
    SteeredBatchRequest,
    SteeredChatRequest,
    SteeredCompletionRequest,
    SteeredResponsesRequest,
)
from steersman.server.chat.trace import Answers

CHAT = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    ("kind", "body", "answers"),
    [
        (SteeredChatRequest, {"messages": CHAT}, Answers()),
        (SteeredChatRequest, {"messages": CHAT, "n": None}, Answers()),
        (SteeredChatRequest, {"messages": CHAT, "n": 4}, Answers(4)),
        (SteeredChatRequest, {"messages": CHAT, "n": -4}, Answers()),
        (SteeredCompletionRequest, {"prompt": "a"}, Answers()),
        (SteeredCompletionRequest, {"prompt": [1, 2, 3]}, Answers()),
        (SteeredCompletionRequest, {"prompt": ["a"]}, Answers()),
        (SteeredCompletionRequest, {"prompt": ["a", "b"], "n": 3}, Answers(3, 2)),
        (SteeredCompletionRequest, {"prompt": [[1, 2, 3], [4]]}, Answers(1, 2)),
        (SteeredCompletionRequest, {"prompt": []}, Answers()),
        (SteeredBatchRequest, {"messages": [CHAT, CHAT, CHAT]}, Answers(1, 3)),
        (SteeredResponsesRequest, {"input": "a"}, Answers()),
    ],
)
def test_who_answers(kind: Any, body: dict[str, Any], answers: Answers) -> None:
    assert kind.model_validate(body).answers == answers


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (SteeredChatRequest, {"messages": CHAT}),
        (SteeredCompletionRequest, {"prompt": "a", "stream": False}),
        (SteeredResponsesRequest, {"input": "a", "stream": True}),
        (SteeredBatchRequest, {"messages": [CHAT]}),
    ],
)
def test_what_counts_no_tokens_stays_as_it_is(kind: Any, body: dict[str, Any]) -> None:
    request = kind.model_validate(body)
    before = request.model_dump()
    assert request.count_tokens(forced=False) is None
    assert request.model_dump() == before


def test_a_server_that_counts_for_everybody_is_left_alone() -> None:
    request = SteeredChatRequest.model_validate({"messages": CHAT, "stream": True})
    assert request.count_tokens(forced=True) == (True, True)
    assert request.stream_options is None
