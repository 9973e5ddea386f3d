"""Keys, files of keys, and calls with them, for tests. `alice` is the key of alice."""

from pathlib import Path
from typing import Any

import yaml

from steersman.server.auth.keyfile import Keys, hash_of
from steersman.server.auth.permissions import (
    ADMIN,
    INFER,
    METRICS,
    READ,
    SCOPES,
    WRITE,
    KeyPermissions,
)

ONE_EACH = {
    "infer": [INFER],
    "reader": [READ],
    "writer": [WRITE],
    "prometheus": [METRICS],
    "admin": [ADMIN],
}
"""Keys by name, each with one scope."""


def entry(name: str, *scopes: str, **more: Any) -> dict[str, Any]:
    """An entry of the keys file; without scopes, all but `admin`."""
    return {
        "name": name,
        "sha256": hash_of(name),
        "scopes": list(scopes) or [INFER, READ, WRITE],
        **more,
    }


def write(path: Path, *entries: dict[str, Any]) -> Path:
    """A keys file at `path`."""
    path.write_text(yaml.safe_dump({"keys": list(entries)}, explicit_end=True))
    return path


def one_each(path: Path) -> Path:
    """A keys file with one key of each scope."""
    return write(path, *(entry(name, *scopes) for name, scopes in ONE_EACH.items()))


def keys(tmp_path: Path, *entries: dict[str, Any]) -> Keys:
    """The keys of such a file."""
    return Keys(write(tmp_path / "keys.yaml", *entries))


def permissions(name: str = "somebody", **more: Any) -> KeyPermissions:
    """Rights to everything but what `more` says."""
    return KeyPermissions(name, frozenset(SCOPES), **more)


def bearer(key: str | None) -> dict[str, str]:
    """Headers of a call with `key`; None: without one."""
    return {} if key is None else {"Authorization": f"Bearer {key}"}
