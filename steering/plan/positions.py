"""Position rules: which tokens of a request are steered.

Token indices are 0-based and counted from the start of the request, P is the number of prompt
tokens. Counting from the start of the request, never of the forward pass, is what makes chunked
prefill, preemption and prefix caching agree.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from steersman.steering.plan.errors import PlanInvalid
from steersman.steering.plan.when.markers import SIDES, marker, marker_of

PositionRule = str | tuple[int, int]
"""A name out of `NAMED_RULES`; explicit (start, stop), where negative counts from the prompt's end;
a range of the answer (`answer_rule`); or what stands after or until a marker
(`steersman.steering.plan.when.markers`)."""

NAMED_RULES: Final = ("generation", "after_prompt", "prompt", "all")
END: Final = 2**31 - 1
"""Stand-in for "until the request ends": larger than any token index, and fits int32."""


_ANSWER: Final = re.compile(r"answer:([0-9]{1,10}):([0-9]{0,10})", re.ASCII)


def answer_rule(start: int | None, stop: int | None) -> str:
    """The rule for tokens [start, stop) of the answer, counted from its first token; None for an
    open end. Raises `PlanInvalid` for a range without a token.

        answer_rule(4, None)    # "answer:4:"
    """
    first = 0 if start is None else start
    if not (0 <= first < END and (stop is None or first < stop < END)):
        raise PlanInvalid(
            f"positions {first}..{'' if stop is None else stop} hold no token of the answer; they "
            "count from its first token, which is 0, and stop must lie after start",
            param="steering.positions",
        )
    return f"answer:{first}:{'' if stop is None else stop}"


def answer_range(rule: PositionRule) -> tuple[int, int | None] | None:
    """Start and stop, None for no end, of a range of the answer; None for any other rule."""
    match = _ANSWER.fullmatch(rule) if isinstance(rule, str) else None
    return None if match is None else (int(match[1]), int(match[2]) if match[2] else None)


def said(rule: PositionRule) -> str | dict[str, Any]:
    """The rule as requests and receipts have it."""
    if isinstance(rule, tuple):
        return {"start": rule[0], "stop": rule[1]}
    if (found := marker_of(rule)) is not None:
        return {found.side: list(found.token_ids)}
    own = answer_range(rule)
    if own is None:
        return rule
    ends = {"start": own[0], **({} if own[1] is None else {"stop": own[1]})}
    return {**ends, "of": "answer"}


def is_explicit(rule: PositionRule) -> bool:
    """Whether the rule names tokens by their numbers."""
    return not isinstance(rule, str) or answer_range(rule) is not None


def check_rule(rule: object, param: str = "steering.positions") -> PositionRule:
    """Return `rule` in its canonical form.

    Accepts a name, a `(start, stop)` pair, a mapping with exactly `start` and `stop`, or one with
    `of`, which is "answer", and at least one of these. Raises `PlanInvalid` for anything else.
    """
    if isinstance(rule, str):
        if (own := answer_range(rule)) is not None:
            return answer_rule(*own)
        if (found := marker_of(rule)) is not None:
            return marker(found.side, found.token_ids, param).rule
        if rule not in NAMED_RULES:
            raise PlanInvalid(
                f"unknown position rule {rule[:64]!r}; use one of {', '.join(NAMED_RULES)} "
                'or {"start": s, "stop": e}, with "of": "answer" for tokens of the answer',
                param=param,
            )
        return rule
    if isinstance(rule, Mapping) and rule.get("of") == "answer" and len(rule) > 1:
        ends = rule.get("start"), rule.get("stop")
        if set(rule) <= {"start", "stop", "of"} and all(_is_end(end) for end in ends):
            return answer_rule(*ends)
    if isinstance(rule, Mapping) and len(rule) == 1 and set(rule) <= set(SIDES):
        ((side, token_ids),) = rule.items()
        return marker(side, token_ids, param).rule
    if isinstance(rule, Mapping) and set(rule) == {"start", "stop"}:
        rule = (rule["start"], rule["stop"])
    match rule:
        case (int(start), int(stop)) if _is_index(start) and _is_index(stop):
            return (start, stop)
    raise PlanInvalid(
        f"positions must be one of {', '.join(NAMED_RULES)}; or an object with the integers "
        '"start" and "stop"; or one with "of": "answer" and at least one of these two; or a '
        'marker, such as {"after": "</think>"}',
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
        interval("answer:4:7", 9)    # (13, 16)
    """
    if (own := answer_range(rule)) is not None:
        start, stop = own
        return prompt_tokens + start, END if stop is None else min(prompt_tokens + stop, END)
    if marker_of(rule) is not None:
        return 0, END  # Which of them, the tokens decide.
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
        '. A range counts from the prompt. For these tokens of the answer use "positions": '
        f'{{"start": {skipped}, "stop": {skipped + steered}, "of": "answer"}}'
    )


def _is_end(value: object) -> bool:
    return value is None or (isinstance(value, int) and _is_index(value))


def _is_index(value: int) -> bool:
    return not isinstance(value, bool) and abs(value) < END
