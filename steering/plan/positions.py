"""Position rules: which tokens of a request are steered.

Token indices are 0-based and counted from the start of the request, P is the number of prompt
tokens. Counting from the start of the request, never of the forward pass, is what makes chunked
prefill, preemption and prefix caching agree.
"""

from collections.abc import Mapping
from typing import Final

from steersman.steering.plan.errors import PlanInvalid

PositionRule = str | tuple[int, int]
"""A name out of `NAMED_RULES`, or explicit (start, stop); negative counts from the prompt's end."""

NAMED_RULES: Final = ("generation", "after_prompt", "prompt", "all")
END: Final = 2**31 - 1
"""Stand-in for "until the request ends": larger than any token index, and fits int32."""


def check_rule(rule: object, param: str = "steering.positions") -> PositionRule:
    """Return `rule` in its canonical form.

    Accepts a name, a `(start, stop)` pair, or a mapping with exactly `start` and `stop`.
    Raises `PlanInvalid` for anything else.
    """
    if isinstance(rule, str):
        if rule not in NAMED_RULES:
            raise PlanInvalid(
                f"unknown position rule {rule[:64]!r}; use one of {', '.join(NAMED_RULES)} "
                'or {"start": s, "stop": e}',
                param=param,
            )
        return rule
    if isinstance(rule, Mapping) and set(rule) == {"start", "stop"}:
        rule = (rule["start"], rule["stop"])
    match rule:
        case (int(start), int(stop)) if _is_index(start) and _is_index(stop):
            return (start, stop)
    raise PlanInvalid(
        f"positions must be one of {', '.join(NAMED_RULES)} or an object with exactly the "
        'integers "start" and "stop"',
        param=param,
    )


def interval(rule: PositionRule, prompt_tokens: int) -> tuple[int, int]:
    """Half-open interval [start, stop) of token indices that `rule` steers.

    `generation` includes the last prompt token, which yields the first new token (CAA, Rimsky et
    al. 2023). Raises `PlanInvalid` for an explicit range that starts outside the prompt or is
    empty.

        interval("prompt", 9)        # (0, 9)
        interval("generation", 9)    # (8, END)
        interval((-3, 9), 9)         # (6, 9)
    """
    match rule:
        case "generation":
            return prompt_tokens - 1, END
        case "after_prompt":
            return prompt_tokens, END
        case "prompt":
            return 0, prompt_tokens
        case "all":
            return 0, END
        case (int(start), int(stop)):
            return _explicit(start, stop, prompt_tokens)
    raise PlanInvalid(f"unknown position rule {rule!r}", param="steering.positions")


def _explicit(start: int, stop: int, prompt_tokens: int) -> tuple[int, int]:
    first = start + prompt_tokens if start < 0 else start
    last = stop + prompt_tokens if stop < 0 else stop
    if not 0 <= first < prompt_tokens:
        raise PlanInvalid(
            f"positions start at {start}, outside the prompt of {prompt_tokens} tokens; "
            f"use {-prompt_tokens}..{prompt_tokens - 1}{_instead(first, last, prompt_tokens)}",
            param="steering.positions",
        )
    if last <= first:
        raise PlanInvalid(
            f"positions {start}..{stop} hold no token of a prompt of {prompt_tokens} tokens; "
            "stop must lie after start",
            param="steering.positions",
        )
    return first, min(last, END)


def _instead(first: int, last: int, prompt_tokens: int) -> str:
    """Advice for the message: how to steer tokens `first` to `last` of the answer, both token
    indices."""
    if not prompt_tokens <= first < last:
        return ""
    skipped, steered = first - prompt_tokens, last - first
    return (
        '. A range counts from the prompt. For tokens of the answer use "positions": '
        f'"after_prompt" with a list as "schedule": {skipped} times 0, then {steered} times the '
        "coefficient"
    )


def _is_index(value: int) -> bool:
    return not isinstance(value, bool) and abs(value) < END
