"""What pydantic finds wrong with a `steering` field, in our words and with the key's path."""

import re
from typing import Any, Final

from pydantic import ValidationError

from steersman.steering.plan import PlanInvalid

_CODES: Final = {"extra_forbidden": "unknown_field", "missing": "missing_field"}
_WORDS: Final = {
    "extra_forbidden": "unknown field; the `steering` schema in /openapi.json lists the known ones",
    "missing": "this key is needed",
    "too_long": "must have at most {max_length} entries, not {actual_length}",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must not be empty; name at least one, or leave the key out",
    "string_too_short": "must not be empty",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be {ge:g} or more",
    "less_than_equal": "must be {le:g} or less",
    "int_type": "must be a whole number",
    "string_type": "must be a string",
    "literal_error": "must be {expected}",
    "list_type": "must be a list",
    "model_type": "must be an object",
}
"""Our words for pydantic's kinds of error."""
_SHAPES: Final = ("model_type", "list_type", "missing", "too_short", "dict_type")
_EXAMPLES: Final = {
    "steering": '{"vectors": {"cheerful": 1.5}}',
    "steering.vectors": '{"cheerful": 1.5}, or [{"id": "cheerful"}]',
    "steering.vectors[]": '{"id": "cheerful"}',
}
"""For clients that send something of another shape altogether."""
_LONGEST: Final = 128
"""A client's own key may be of any length."""


def explain(error: ValidationError) -> PlanInvalid:
    """The first problem that concerns the form the client used, in words and with its path."""
    problems = error.errors(include_url=False, include_input=False)
    # `vectors` is normalised to a list, so what pydantic says about the short form is noise.
    mine = [p for p in problems if not any(str(s).startswith("dict[") for s in p["loc"])]
    problem = (mine or problems)[0]
    path = "steering"
    for segment in problem["loc"]:
        if isinstance(segment, int):
            path += f"[{segment}]"
        elif "[" not in segment and segment not in ("PositionRange", "literal"):
            path += f".{segment[:_LONGEST]}"
    context: dict[str, Any] = problem.get("ctx", {})
    words = _WORDS.get(problem["type"])
    said = words.format(**context) if words else problem["msg"].removeprefix("Value error, ")
    example = _EXAMPLES.get(re.sub(r"\[[0-9]+\]", "[]", path))
    if example is not None and problem["type"] in _SHAPES:
        said += f"; a right one is {example}"
    code = _CODES.get(problem["type"], "invalid_steering")
    return PlanInvalid(f"{path}: {said}", param=path, code=code)
