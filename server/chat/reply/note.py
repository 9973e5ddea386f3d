"""A remark for the receipt where nothing that is returned could have changed."""

from typing import Final

from steersman.steering.plan import Plan, PlannedVector

UNCHANGED: Final = (
    "nothing that this answer returns could have changed: all steered tokens come behind what was "
    "scored or sampled; to score a text, steer its own tokens, with positions `all` or `prompt`"
)
ZERO: Final = "nothing could have changed: every coefficient is 0"


def note(plan: Plan, sampled: int | None) -> str | None:
    """The remark for the receipt of `plan`, None where there is nothing to remark. `sampled`: how
    many new tokens are returned, None if the request sets no limit."""
    if plan.dynamic is not None:
        return None
    if all(vector.coefficient == 0 and not vector.schedule for vector in plan.vectors):
        return ZERO
    # New token j is made at the j-th token from the prompt's last on; what is scored of the prompt
    # is made before that.
    first = [_first(vector) for vector in plan.vectors]
    behind = sampled is not None and all(at is not None and at >= sampled for at in first)
    return UNCHANGED if behind else None


def _first(vector: PlannedVector) -> int | None:
    """The first steered token, counted from the prompt's last; None if it comes before that one, or
    if that depends on how long the prompt is."""
    rule = vector.positions
    if rule == "generation" or (isinstance(rule, tuple) and rule[0] == -1):
        return 0
    return 1 if rule == "after_prompt" else None
