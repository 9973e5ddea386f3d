"""How lm-eval's scores are judged; lm-eval itself is not run here."""

import json
from typing import Any

import pytest

from tests.clients.compare import Known
from tests.clients.exact import WITHIN, judged

KNOWN = Known("[-1.0, -2.0]", "[-1.0, -4.0]")


def line(column: str, *scores: float, **more: Any) -> dict[str, str]:
    return {"column": column, "route": "task", "text": json.dumps(scores), "error": "", **more}


LINES = [
    line("plain", -1.0, -2.0 + WITHIN / 2),
    line("field", -1.0, -4.0),
    line("name", -1.0, -4.0),
    {"column": "plain", "route": "chat", "text": "It was fine", "error": ""},
]


def test_the_largest_distance_is_said() -> None:
    assert f"{WITHIN / 2:.1e} nats" in judged(LINES, KNOWN)


@pytest.mark.parametrize(
    "wrong",
    [
        line("name", -1.0, -4.0 + 2 * WITHIN),
        line("name", -1.0, -2.0),
        line("name", -1.0),
        line("name", text="", error="no server"),
    ],
)
def test_what_is_not_the_reference_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(SystemExit):
        judged([*LINES[:2], wrong], KNOWN)


def test_a_task_that_did_not_run_is_no_proof() -> None:
    with pytest.raises(SystemExit, match="did not run"):
        judged(LINES[:2], KNOWN)
