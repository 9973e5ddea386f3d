"""Positions by a marker in a request: its schema, and its token ids."""

from typing import Annotated, Any, Final

from pydantic import Field, StrictInt, StrictStr

from steersman.server.chat.when.bounded import Bounded
from steersman.steering.plan import PlanInvalid, PositionRule
from steersman.steering.plan.when.markers import MAX_MARKER, SIDES, marker
from steersman.vectors.errors import shown

LONGEST: Final = 256
"""Most characters of a marker."""

MarkerText = Annotated[
    StrictStr | list[StrictInt] | None,
    Field(
        description=f"A string that is one token of the served model, or a list of 1 to "
        f"{MAX_MARKER} token ids that follow each other.",
    ),
]


class MarkerRule(Bounded):
    """The tokens after, or until, a marker: counted over the whole request, its prompt and its
    answer. The marker's last token is the first of those after it."""

    after: MarkerText = None
    until: MarkerText = None


def is_text(rule: Any) -> bool:
    """Whether `rule` is a marker of a string, which only a tokenizer can read. Raises ValueError
    for one that is empty or too long."""
    if not isinstance(rule, dict) or len(rule) != 1 or not set(rule) <= set(SIDES):
        return False
    ((side, text),) = rule.items()
    if isinstance(text, str) and not 1 <= len(text) <= LONGEST:
        raise ValueError(f"`{side}` must have 1 to {LONGEST} characters, not {len(text)}")
    return isinstance(text, str)


def resolve_marker(asked: MarkerRule, tokenizer: Any, where: str) -> PositionRule:
    """The rule for `asked`. `where`: path of the positions in the request. Raises `PlanInvalid` for
    a string that is not one token."""
    side = "after" if asked.after is not None else "until"
    wanted, param = getattr(asked, side), f"{where}.{side}"
    if not isinstance(wanted, str):
        return marker(side, wanted, param).rule
    if tokenizer is None:
        raise PlanInvalid(
            "this server has no tokenizer to read a marker with; send the list of its token ids",
            param=param,
        )
    token_ids = list(tokenizer.encode(wanted, add_special_tokens=False))
    if len(token_ids) != 1:
        raise PlanInvalid(
            f"the marker {shown(wanted)} is {len(token_ids)} tokens of this model and not one; use "
            "one that is one token, or the list of the token ids as they stand in the text "
            f"(by itself it is {token_ids[:MAX_MARKER]})",
            param=param,
            code="not_one_token",
        )
    return marker(side, token_ids, param).rule
