"""Where a benchmark that starts servers puts their logs, and how it ends."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def scratch_folder(given: Path | None, prefix: str) -> Iterator[tuple[ExitStack, Path]]:
    """`given`, or else a temporary folder; and a stack for what is started there, which is stopped
    also where this process is ended from outside."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with ExitStack() as stack:
        folder = given or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))
        folder.mkdir(parents=True, exist_ok=True)
        yield stack, folder
