"""Translates pydantic's errors into our words, for metadata, requests and the keys file."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, ValidationError

from steersman.vectors.errors import VectorInvalid

LONGEST_PATH: Final = 128
"""Characters: a client's own key may be of any length."""
_WORDS: Final = {
    "extra_forbidden": "unknown field",
    "missing": "this key is needed",
    "too_long": "must have at most {max_length} entries, not {actual_length}",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must not be empty; name at least one, or leave the key out",
    "string_too_short": "must not be empty",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be {ge:g} or more",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be {le:g} or less",
    "int_type": "must be a whole number",
    "string_type": "must be a string",
    "string_unicode": "is not valid Unicode",
    "bool_type": "must be true or false",
    "literal_error": "must be {expected}",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
}
"""Our words for pydantic's kinds of error."""
Location = tuple[str | int, ...]


class Problem(NamedTuple):
    """One error. It contains no part of the value, which may be a secret."""

    location: Location
    kind: str
    """Pydantic's name for it, such as `extra_forbidden`."""
    words: str

    @property
    def is_unknown_field(self) -> bool:
        """Whether the error is a key that the model does not have."""
        return self.kind == "extra_forbidden"


def first_problem(
    error: ValidationError, concerns: Callable[[Location], bool] = lambda _: True
) -> Problem:
    """The first error whose location `concerns` the caller; if there is none, the first of all."""
    problems = error.errors(include_url=False, include_input=False)
    found = next((p for p in problems if concerns(p["loc"])), problems[0])
    words = _WORDS.get(found["type"])
    context: dict[str, Any] = found.get("ctx", {})
    said = words.format(**context) if words else found["msg"].removeprefix("Value error, ")
    return Problem(found["loc"], found["type"], said)


def path_of_key(location: Location, root: str = "") -> str:
    """`location` in the form of messages, such as `steering.vectors[0].id`."""
    path = root
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{step[:LONGEST_PATH]}" if path else step[:LONGEST_PATH]
    return path


def body_invalid(error: ValidationError) -> VectorInvalid:
    """The error for the body of a request to one of our routes; `param` is the body's own key."""
    problem = first_problem(error)
    param = path_of_key(problem.location[:1])[:LONGEST_PATH] or "body"
    code = "unknown_field" if problem.is_unknown_field else "invalid_body"
    return VectorInvalid(f"{param}: {problem.words}", param=param, code=code)


def check_patch(patch: BaseModel) -> None:
    """Raise `VectorInvalid` for a body that changes nothing, or has null for a key: what is left
    out stays as it is."""
    if not patch.model_fields_set:
        raise VectorInvalid(
            f"nothing to change; send some of {', '.join(type(patch).model_fields)}",
            param="body",
            code="invalid_body",
        )
    for key in patch.model_fields_set:
        if getattr(patch, key) is None:
            raise VectorInvalid(
                f"{key} cannot be null; leave it out to keep it", param=key, code="invalid_body"
            )
