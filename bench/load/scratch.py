"""The folder of a benchmark that starts servers, how that ends, and its clients' keys."""

from __future__ import annotations

import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
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


@contextmanager
def scratch_folder(given: Path | None, prefix: str) -> Iterator[tuple[ExitStack, Path]]:
    """`given`, or else a temporary folder; and a stack for what is started there, which is stopped
    also where this process is ended from outside."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with ExitStack() as stack:
        folder = given or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))
        folder.mkdir(parents=True, exist_ok=True)
        yield stack, folder
