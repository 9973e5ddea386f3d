"""Names of vectors and ids that requests use: `name`, or `name@<12 or more hex of its digest>`."""

import re
from typing import Final, NamedTuple

from steersman.vectors.errors import VectorConflict, VectorInvalid, VectorNotFound, shown

MAX_NAME: Final = 128
PATTERN: Final = "[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
"""Of a name, which has no `..` either."""
_NAME: Final = re.compile(PATTERN, re.ASCII)
_HEX: Final = re.compile(r"[0-9a-f]{12,64}", re.ASCII)


class VectorId(NamedTuple):
    """An id in its parts. `version` is the beginning of a digest's hex digits; None for the newest
    version."""

    name: str
    version: str | None


def check_name(name: object, param: str = "name") -> str:
    """Return `name` if it is a valid name of a vector; else raise `VectorInvalid`."""
    if not isinstance(name, str) or not is_name(name):
        raise VectorInvalid(
            f"{shown(name)} cannot be a vector's name; use 1 to {MAX_NAME} letters, digits, '.', "
            "'_' and '-', beginning with a letter or digit and without '..'",
            param=param,
            code="invalid_name",
        )
    return name


def is_name(text: str) -> bool:
    """Whether `text` can be a name of its own."""
    return bool(_NAME.fullmatch(text)) and ".." not in text


def parse_id(text: str, param: str = "id") -> VectorId:
    """Parse an id; raises `VectorInvalid` if no vector can have it."""
    name, at, version = text.partition("@")
    check_name(name, param)
    if at and not _HEX.fullmatch(version):
        raise VectorInvalid(
            f"{shown(text)} is not the id of a vector; after '@' come 12 to 64 lower-case hex "
            "digits of the digest",
            param=param,
            code="invalid_name",
        )
    return VectorId(name, version if at else None)


def check_is_name(name: str) -> None:
    """Raise `VectorInvalid` unless `name` is a whole name, without a version."""
    if parse_id(name).version is not None:
        raise VectorInvalid(
            f"{shown(name)} is one version of a vector; this changes a whole name: leave out '@' "
            "and what follows",
            param="id",
        )


def taken(name: str, digest: str, misfit: str | None) -> VectorConflict:
    """The error for a name with other content than `digest`. `misfit`: why the served model cannot
    be steered with that other content; None if it can."""
    if misfit is not None:
        return VectorConflict(
            f"{name!r} is in use for a vector that is not for the served model ({misfit}). Several "
            "models share this library: upload this under another name, as one that ends in the "
            "model's, or give each model's server a library of its own (--library)",
            param="name",
        )
    return VectorConflict(
        f"{name!r} is in use for other content; upload this under another name and PATCH the "
        f"digest of {name!r} to {digest}, or delete {name!r} first",
        param="name",
    )


def not_found(name: str) -> VectorNotFound:
    """The error for a name that is not there, or that the caller may not see."""
    return VectorNotFound(
        f"there is no vector {name!r}; GET /v1/steering/vectors lists them", param="id"
    )
