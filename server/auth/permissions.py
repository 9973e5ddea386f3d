"""What a key may do."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from steersman.vectors.operation import OPERATIONS

INFER: Final = "infer"
READ: Final = "vectors:read"
WRITE: Final = "vectors:write"
INLINE: Final = "vectors:inline"
ACTIVATIONS: Final = "activations:read"
ADMIN: Final = "admin"
METRICS: Final = "metrics"
SCOPES: Final = (INFER, READ, WRITE, INLINE, ACTIVATIONS, METRICS, ADMIN)


@dataclass(frozen=True)
class KeyPermissions:
    """Scopes and limits of one key. None means no limit.

    `admin` contains all other scopes; of the others, none contains another.
    """

    name: str
    scopes: frozenset[str]
    vectors: tuple[str, ...] = ("*",)
    """Patterns (`fnmatch`, case-sensitive) of the names that it may know of."""
    operations: tuple[str, ...] = OPERATIONS
    """What it may do with vectors."""
    max_relative_dose: float | None = None
    max_total_dose: float | None = None
    requests_per_minute: int | None = None
    max_concurrent_requests: int | None = None
    max_vectors: int | None = None
    """Names in the library that were made with it."""
    max_jobs: int | None = None
    max_extract_rows: int | None = None
    preset: str | None = None
    """The preset of its requests that do not say how they are steered."""
    locked: bool = False
    """Whether its requests cannot say anything else."""

    def may(self, scope: str) -> bool:
        """Whether the key has `scope`."""
        return scope in self.scopes or ADMIN in self.scopes

    @property
    def sees_all(self) -> bool:
        """Whether the key sees all vectors."""
        return "*" in self.vectors

    def sees(self, name: str) -> bool:
        """Whether the key sees a vector called `name`."""
        return any(fnmatchcase(name, pattern) for pattern in self.vectors)


OPEN: Final = KeyPermissions("", frozenset(SCOPES))
"""Everybody's, on a server without a keys file."""
