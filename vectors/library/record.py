"""The record of one name: a small JSON file, `names/<name>.json`."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

from steersman.vectors.defaults import check_safe_range
from steersman.vectors.digest import DIGEST, short
from steersman.vectors.errors import VectorInvalid, VectorNotFound
from steersman.vectors.file.metadata import check_description, read_base_model
from steersman.vectors.library.names import check_name
from steersman.vectors.vector import BaseModel

HISTORY: Final = 32
"""Versions of a name that stay addressable; older ones are dropped, so that nothing grows."""


@dataclass(frozen=True)
class Record:
    """A name. `digests[0]` is its content now, the others are what it had before.

    `description`, `safe_range` and `base_model` belong to the name and, unless None, override the
    file's. Times are Unix seconds.
    """

    name: str
    digests: tuple[str, ...]
    created_at: int
    updated_at: int
    description: str | None = None
    safe_range: tuple[float, float] | None = None
    base_model: BaseModel | None = None
    owner: str | None = None
    """Who made the name; None on a server without keys."""
    foreign: tuple[str, ...] = ()
    """Digests of content that another owner's file brought first. The owner of this name may not
    read the metadata of that file."""
    unknown: Mapping[str, Any] = field(default_factory=dict)
    """Fields that a newer version has written; they stay."""

    def with_digest(self, digest: str) -> tuple[str, ...]:
        """The history with `digest` as the newest."""
        return (digest, *(d for d in self.digests if d != digest))[:HISTORY]

    def version(self, digits: str) -> str:
        """The one of its digests that begins with these hex digits. Raises `VectorInvalid` if
        several do, `VectorNotFound` if none does."""
        found = [d for d in self.digests if d.removeprefix("sha256:").startswith(digits)]
        if len(found) == 1:
            return found[0]
        if found:
            raise VectorInvalid(
                f"{len(found)} versions of {self.name!r} begin with {digits}; give more digits",
                param="id",
            )
        raise VectorNotFound(
            f"vector {self.name!r} has no version {digits}; its newest is {short(self.digests[0])}",
            param="id",
        )

    def to_json(self) -> bytes:
        """The JSON that `from_json` reads."""
        written = {**self.unknown, **asdict(self)}
        del written["unknown"]
        return json.dumps(written, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes, name: str) -> "Record":
        """Read the record of `name`; raises `VectorInvalid` if it is not one."""
        try:
            written = json.loads(data)
            match written:
                case {
                    "name": str(own),
                    "digests": [str(), *_] as digests,
                    "created_at": int(created_at),
                    "updated_at": int(updated_at),
                    "description": str() | None as description,
                    "safe_range": [_, _] | None as safe_range,
                } if own == name and all(DIGEST.fullmatch(digest) for digest in digests):
                    return cls(
                        name=check_name(own),
                        digests=tuple(digests),
                        created_at=created_at,
                        updated_at=updated_at,
                        description=None if description is None else check_description(description),
                        safe_range=None if safe_range is None else check_safe_range(safe_range),
                        base_model=_base_model(written),
                        owner=_owner(written),
                        foreign=tuple(d for d in digests if d in written.get("foreign", ())),
                        unknown={k: v for k, v in written.items() if k not in _KNOWN},
                    )
        except (ValueError, TypeError, RecursionError):
            pass
        raise VectorInvalid(f"the record of {name!r} is damaged", param="name", code="damaged")


_KNOWN: Final = frozenset(known.name for known in fields(Record))


def _owner(written: dict[str, object]) -> str | None:
    """The owner; None in records from before there were owners."""
    owner = written.get("owner")
    return owner if isinstance(owner, str) else None


def _base_model(written: dict[str, object]) -> BaseModel | None:
    """The name's own base model; None in records from before names had one."""
    said = written.get("base_model")
    return None if said is None else read_base_model(said)
