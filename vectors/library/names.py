"""Names of vectors and ids that requests use: `name`, or `name@<12 or more hex of its digest>`."""

import re
from typing import Final, NamedTuple

from steersman.vectors.errors import VectorInvalid, shown

MAX_NAME: Final = 128
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_HEX: Final = re.compile(r"[0-9a-f]{12,64}", re.ASCII)


class VectorId(NamedTuple):
    """An id taken apart. `version` is the beginning of a digest's hex, or None for the newest."""

    name: str
    version: str | None


def check_name(name: object, param: str = "name") -> str:
    """`name` itself; raises `VectorInvalid` unless it is a name that a vector may have."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name:
        raise VectorInvalid(
            f"{shown(name)} cannot be a vector's name; use 1 to {MAX_NAME} letters, digits, '.', "
            "'_' and '-', beginning with a letter or digit and without '..'",
            param=param,
            code="invalid_name",
        )
    return name


def parse_id(text: str, param: str = "id") -> VectorId:
    """Take an id apart; raises `VectorInvalid` if no vector can have it."""
    name, at, version = text.partition("@")
    check_name(name, param)
    if at and not _HEX.fullmatch(version):
        raise VectorInvalid(
            f"{shown(text)} is no vector's id; after '@' come 12 to 64 lower-case hex digits of "
            "the digest",
            param=param,
            code="invalid_name",
        )
    return VectorId(name, version if at else None)
