"""Positions by a marker in a request: read by the tokenizer, and refused by their key."""

from pathlib import Path
from typing import Any

import pytest

from steersman.server.auth.permissions import OPEN
from steersman.server.chat.resolve import Resolved
from steersman.server.chat.steered_request import resolved
from steersman.steering.plan import PlanInvalid
from steersman.vectors.errors import VectorInvalid
from tests.support.server.make import steersman


class Tokenizer:
    """A token a letter, and one for `</think>`."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [900] if text == "</think>" else [ord(letter) for letter in text]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    app = steersman(tmp_path_factory.mktemp("library"))
    app.tokenizer = Tokenizer()
    return app


def ask(app: Any, positions: Any, **more: Any) -> Resolved:
    use = {"id": "other", "positions": positions, **more}
    return resolved(app.steering_for(OPEN), {"vectors": [use]})


@pytest.mark.parametrize(
    ("written", "rule"),
    [
        ({"after": "</think>"}, "after:900"),
        ({"until": "x"}, "until:120"),
        ({"after": [3, 4]}, "after:3,4"),
    ],
)
def test_a_marker_is_read_and_said_as_it_was_written(app: Any, written: Any, rule: str) -> None:
    made = ask(app, written)
    assert made.plan.vectors[0].positions == rule
    assert made.draft[0]["positions"] == written
    assert "marker" in app.capabilities_for(OPEN)["positions"]


@pytest.mark.parametrize(
    ("written", "param"),
    [
        ({"after": "think"}, "positions.after"),
        ({"until": ""}, "positions"),
        ({"until": "x" * 300}, "positions"),
        ({"until": []}, "positions"),
        ({"until": ["x"]}, "positions"),
        ({"after": "x", "until": "y"}, "positions"),
        ({"after": None}, "positions"),
        ({"after": "x", "of": "answer"}, "positions"),
    ],
)
def test_what_is_not_a_marker_is_refused_by_its_key(app: Any, written: Any, param: str) -> None:
    with pytest.raises(PlanInvalid) as caught:
        ask(app, written)
    assert caught.value.param == f"steering.vectors[0].{param}"


def test_a_marker_of_several_tokens_says_so(app: Any) -> None:
    with pytest.raises(PlanInvalid, match=r"is 3 tokens.*\[97, 98, 99\]") as caught:
        ask(app, {"after": "abc"})
    assert caught.value.code == "not_one_token"


def test_without_a_tokenizer_it_must_be_token_ids(tmp_path: Path) -> None:
    app = steersman(tmp_path)
    ask(app, {"after": [5]})
    with pytest.raises(PlanInvalid, match="token ids") as caught:
        ask(app, {"after": "</think>"})
    assert caught.value.param == "steering.vectors[0].positions.after"


def test_a_schedule_does_not_go_with_a_marker(app: Any) -> None:
    with pytest.raises(PlanInvalid) as caught:
        ask(app, {"after": "</think>"}, schedule="start")
    assert caught.value.param == "steering.vectors[0].positions"


def test_a_file_has_no_marker(app: Any) -> None:
    with pytest.raises(VectorInvalid):
        app.whole_library.update("other", positions={"after": [5]})
