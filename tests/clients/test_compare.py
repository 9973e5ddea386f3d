"""How the comparison of clients judges what they print; the clients themselves are not run here."""

import json

import pytest

from tests.clients.compare import Known, cell, table

CHAT = Known("It was fine", "It was wonderful")
SCORES = Known("[-1.0, -2.0]", "[-1.0, -4.0]")


def row(**changes: str) -> dict[str, str]:
    return {"status": "200", "text": "", "receipt": "", "route": "chat", **changes}


@pytest.mark.parametrize(
    ("text", "verdict"),
    [("It was fine", "unsteered"), ("It was wonderful", "steered"), ("It", "neither")],
)
def test_a_text_is_steered_only_if_it_is_the_steered_one(text: str, verdict: str) -> None:
    assert CHAT.verdict(text) == verdict


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        ([-1.001, -2.001], "unsteered"),
        ([-1.001, -4.001], "steered"),
        ([-1.0, -3.0], "neither"),
        ([-1.0], "neither"),
    ],
)
def test_log_likelihoods_are_judged_within_rounding(scores: list[float], verdict: str) -> None:
    assert SCORES.verdict(json.dumps(scores)) == verdict


def test_a_question_whose_answer_steering_does_not_change_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing can be judged"):
        Known("It was fine", "It was fine")
    with pytest.raises(ValueError, match="nothing can be judged"):
        Known("[-1.0]", "[-1.001]")


def test_a_cell_has_status_steering_and_receipt() -> None:
    known = {"chat": CHAT, "scores": SCORES}
    assert cell(row(text="It was fine"), known) == "200, unsteered, no receipt"
    steered = row(text="It was wonderful", receipt="header")
    assert cell(steered, known) == "200, steered, receipt: header"
    assert cell(row(status="400, steering"), known) == "400, steering"


def test_what_is_as_before_is_said_to_be_and_what_ran_once_is_not() -> None:
    before = {("A", "one"): "200", ("A", "two"): "404", ("A", "gone"): "200"}
    after = {("A", "one"): "200", ("A", "two"): "400", ("B", "new"): "200"}
    assert table(before, after)[2:] == [
        "| A | one | 200 | the same |",
        "|  | two | 404 | 400 |",
        "|  | gone | 200 | not run |",
        "| B | new | not run | 200 |",
    ]
