"""What captures cost, out of steps that are made up."""

from steersman.steering.plan.step_clock import Seen, StepClock


def other(name: str, ended: bool = False) -> Seen:
    return Seen(name, ended)


def captured(name: str) -> Seen:
    return Seen(f"capture-{name}", False)


def clock_after(*steps: tuple[float, list[Seen]] | tuple[float, list[Seen], int, int]) -> StepClock:
    """Of each: when it ended, its outputs, tokens of captured prompts, captured sequences behind
    theirs."""
    clock = StepClock()
    for step in steps:
        clock.note(*step)
    # A step counts when the next one's outputs come.
    clock.note(steps[-1][0] + 1000, [])
    return clock


def test_a_prompts_tokens_cost_what_they_add_to_a_step() -> None:
    clock = clock_after(
        (1.0, [other("a"), other("b")]),
        (1.1, [other("a"), other("b")]),
        (1.2, [other("a"), other("b")]),
        (1.34, [other("a"), other("b"), captured("1"), captured("2")], 20, 0),
    )
    assert abs((clock.plain or 0) - 0.1) < 1e-9
    assert abs((clock.by_token or 0) - 0.04 / 20) < 1e-9
    assert clock.by_sequence is None


def test_a_step_with_a_part_of_a_prompt_is_not_a_plain_one() -> None:
    """Only others have outputs in it: the prompt ends in a later step."""
    clock = clock_after(
        (1.0, [other("a")]),
        (1.1, [other("a")]),
        (1.24, [other("a")], 7, 0),
        (1.38, [other("a")], 7, 0),
        (1.50, [other("a"), captured("1")], 6, 0),
    )
    assert abs((clock.plain or 0) - 0.1) < 1e-9
    # 0.04 / 7, twice, and 0.02 / 6.
    assert abs((clock.by_token or 0) - (0.08 / 7 + 0.02 / 6) / 3) < 1e-9


def test_later_steps_of_a_captured_text_count_by_sequence() -> None:
    clock = clock_after(
        (1.0, [other("a")]),
        (1.1, [other("a")]),
        (1.3, [other("a"), captured("1")], 10, 0),
        (1.42, [other("a"), captured("1")], 0, 1),
        (1.65, [other("a"), captured("1"), captured("2")], 11, 1),
    )
    assert abs((clock.by_sequence or 0) - 0.02) < 1e-9
    # 0.1 more over 10 tokens, and 0.13 more, of which 0.02 are the first one's next token, over 11.
    assert abs((clock.by_token or 0) - 0.01) < 1e-9


def test_a_step_in_two_parts_is_one_step() -> None:
    clock = clock_after(
        (1.0, [other("a"), other("b")]),
        (1.1, [other("a"), other("b")]),
        (1.25, [other("a")], 10, 0),
        (1.25, [captured("1"), other("b")]),
    )
    assert abs((clock.plain or 0) - 0.1) < 1e-9
    assert abs((clock.by_token or 0) - 0.005) < 1e-9


def test_steps_of_two_engines_are_not_mistaken_for_short_ones() -> None:
    """Their outputs come interleaved; a request's own tokens are a step of its engine apart."""
    clock = clock_after(
        (1.00, [other("a")]),
        (1.05, [other("b")]),
        (1.10, [other("a")]),
        (1.15, [other("b")]),
        (1.20, [other("a")]),
    )
    assert abs((clock.plain or 0) - 0.1) < 1e-9


def test_alone_a_text_costs_the_whole_step() -> None:
    clock = clock_after((1.0, [captured("1")], 10, 0), (1.2, [captured("2")], 20, 0))
    assert clock.plain is None
    assert abs((clock.by_token or 0) - 0.01) < 1e-9


def test_with_others_whose_steps_are_unknown_nothing_is_made_up() -> None:
    """Each of the others has one token only: how long its step was, nobody saw."""
    clock = clock_after(
        (1.0, [other("a", ended=True)]),
        (9.0, [other("b", ended=True), captured("1")], 10, 0),
    )
    assert (clock.plain, clock.by_token) == (None, None)


def test_one_outlier_moves_nothing() -> None:
    """Another's long prompt in the same step is not the text's."""
    steps = [(1.0 + n / 10, [other("a")], 0, 0) for n in range(4)]
    now = steps[-1][0]
    for n, took in enumerate((0.14, 3.0, 0.14, 0.14)):
        now += took
        steps.append((now, [other("a"), captured(str(n))], 10, 0))
    assert abs((clock_after(*steps).by_token or 0) - 0.004) < 1e-9


def test_it_is_watched_while_somebody_watches_and_then_forgets() -> None:
    clock = StepClock()
    assert state(clock) == (False, False)
    with clock.watch(), clock.watch():
        clock.note(1.0, [other("a")])
        clock.note(1.1, [other("a")])
        clock.note(1.2, [])
        assert state(clock) == (True, True)
    assert state(clock) == (False, False)


def state(clock: StepClock) -> tuple[bool, bool]:
    """Whether it is watched, and whether it has seen a step without texts."""
    return clock.watched, clock.plain is not None
