"""Position rules against the design's table, and against the reference's reading of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.steering.plan import NAMED_RULES, PlanInvalid, check_rule, interval
from steersman.steering.plan.positions import END, answer_rule, is_explicit, said
from tests.reference.reference import is_steered
from tests.support.steering.make import rules


@pytest.mark.parametrize(
    ("rule", "span"),
    [
        ("generation", (6, END)),
        ("after_prompt", (7, END)),
        ("prompt", (0, 7)),
        ("all", (0, END)),
        ((0, 7), (0, 7)),
        ((2, 5), (2, 5)),
        ((-1, 7), (6, 7)),
        ((-7, -1), (0, 6)),
        ((3, -2), (3, 5)),
        ((-2, 40), (5, 40)),
        ("answer:0:", (7, END)),
        ("answer:2:5", (9, 12)),
    ],
)
def test_the_table(rule: str | tuple[int, int], span: tuple[int, int]) -> None:
    assert interval(rule, 7) == span


@given(st.data(), st.integers(1, 20))
def test_agrees_with_the_reference(data: st.DataObject, prompt_tokens: int) -> None:
    rule = data.draw(rules(prompt_tokens))
    written = said(rule)
    assert check_rule(written) == rule
    start, stop = interval(rule, prompt_tokens)
    for t in range(prompt_tokens + 10):
        assert (start <= t < stop) == is_steered(t, prompt_tokens, written)


@pytest.mark.parametrize("rule", [(7, 9), (-8, 3), (40, 50), (3, 3), (4, 2), (-1, -1), (5, -3)])
def test_ranges_without_a_prompt_token_are_refused(rule: tuple[int, int]) -> None:
    with pytest.raises(PlanInvalid) as caught:
        interval(rule, 7)
    assert caught.value.param == "steering.positions"


def test_an_unknown_name_is_refused_where_it_is_used() -> None:
    with pytest.raises(PlanInvalid, match="sometimes"):
        interval("sometimes", 7)


@pytest.mark.parametrize("rule", NAMED_RULES)
def test_names_are_canonical_already(rule: str) -> None:
    assert check_rule(rule) == rule


@pytest.mark.parametrize("rule", [(1, -2), [1, -2], {"start": 1, "stop": -2}])
def test_every_way_to_write_a_range(rule: object) -> None:
    assert check_rule(rule) == (1, -2)


@pytest.mark.parametrize(
    "rule",
    [
        "Generation", "", None, 3, 1.5, True, [], [1], [1, 2, 3], [1, 2.0], ["1", "2"],
        [True, 2], [0, False], {"start": 1}, {"start": 1, "stop": 2, "step": 1},
        {"start": None, "stop": 2}, [0, 2**31 - 1], [-(2**40), 1], [[1, 2], [3, 4]],
    ],
)  # fmt: skip
def test_anything_else_is_refused(rule: object) -> None:
    with pytest.raises(PlanInvalid) as caught:
        check_rule(rule, "steering.vectors[0].positions")
    assert caught.value.param == "steering.vectors[0].positions"


@pytest.mark.parametrize(
    ("written", "rule"),
    [
        ({"start": 4, "stop": 9, "of": "answer"}, "answer:4:9"),
        ({"start": 4, "of": "answer"}, "answer:4:"),
        ({"stop": 9, "of": "answer"}, "answer:0:9"),
        ({"start": None, "stop": 9, "of": "answer"}, "answer:0:9"),
    ],
)
def test_a_range_of_the_answer(written: dict[str, object], rule: str) -> None:
    assert check_rule(written) == rule
    assert is_explicit(rule)
    assert not is_explicit("all")


@pytest.mark.parametrize(
    "written",
    [
        {"of": "answer"},
        {"start": -1, "of": "answer"},
        {"start": 5, "stop": 5, "of": "answer"},
        {"start": 5, "of": "prompt"},
        {"start": True, "of": "answer"},
        {"start": 1, "stop": 2, "of": "answer", "step": 2},
        "answer:5:5",
        "answer:-1:",
    ],
)
def test_what_is_no_range_of_the_answer(written: object) -> None:
    with pytest.raises(PlanInvalid):
        check_rule(written)


def test_whoever_means_the_answer_is_told_how() -> None:
    with pytest.raises(PlanInvalid, match=r'"start": 3, "stop": 5, "of": "answer"'):
        interval((10, 12), 7)
    assert answer_rule(3, 5) == "answer:3:5"
