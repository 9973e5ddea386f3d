"""A keys file for a benchmark's clients, as `steersman serve --api-keys-file` reads it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from steersman.server.auth.keyfile import hash_of

INFER = ("infer",)
EDIT = ("infer", "vectors:read", "vectors:write")


def write_keys(path: Path, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """New keys under the names of `entries`, with their fields. Only hashes get into the file."""
    clear = {name: secrets.token_urlsafe(32) for name in entries}
    keys = [
        {"name": name, "sha256": hash_of(clear[name]), **fields} for name, fields in entries.items()
    ]
    # The benchmark's own watchers look at the metrics.
    file = {"public": ["/metrics"], "keys": keys}
    path.write_text(yaml.safe_dump(file, sort_keys=False, explicit_end=True))
    return clear
