"""What a row of docs/models.md rests on: each check of a family can fail."""

from typing import Any

import pytest

from tests.matrix.test_models import check
from tests.support.models import table
from tests.support.models.family import Family

GOOD = {"sites": ["resid_post"], "layers": [0], "unsteered": 1e-6}
STEERED = {"resid_post.0": {"off": 1e-6, "moved": 1.0}}
FAMILY = Family("F", "FConfig", sites=("resid_post",))
IMPOSSIBLE = Family("I", "IConfig", impossible="no such kernel")
ABSENT = Family("A", "AConfig", needs="no_package_of_this_name")


@pytest.mark.parametrize(
    ("family", "found"),
    [
        (FAMILY, GOOD | {"steered": {"resid_post.0": {"off": 1e-3, "moved": 1.0}}}),
        (FAMILY, GOOD | {"steered": {"resid_post.0": {"off": 1e-6, "moved": 0.0}}}),
        (FAMILY, GOOD | {"steered": STEERED, "unsteered": 1e-3}),
        (FAMILY, GOOD | {"steered": {}}),
        (FAMILY, {"stage": "steer", "error": "ValueError: anything"}),
        (IMPOSSIBLE, {"stage": "plain"}),
        (IMPOSSIBLE, {"stage": "plain", "error": "ValueError: another"}),
        (IMPOSSIBLE, {"stage": "make", "error": "ValueError: no such kernel"}),
        (ABSENT, GOOD | {"steered": STEERED, "stage": "judge"}),
    ],
)
def test_a_family_that_is_not_as_said_fails(family: Family, found: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        check(family, found)


def test_what_is_as_said_passes_and_says_vllms_own_error() -> None:
    check(FAMILY, GOOD | {"steered": STEERED})
    found = {"stage": "plain", "error": "ValueError: no such kernel\nmore", "place": "vllm/x.py:7"}
    check(IMPOSSIBLE, found)
    _, cells = table.line(IMPOSSIBLE, table.as_row(found))
    why = "vLLM itself cannot run it on CPU: `ValueError: no such kernel` (`vllm/x.py:7`)"
    assert cells == ("I", "not run", "", why)
