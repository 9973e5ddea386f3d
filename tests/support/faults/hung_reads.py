"""A file whose reads hang in the kernel, as on a network file system whose server has gone away.

Linux asks a listener before a file is opened or read (`man 7 fanotify`). This one does not answer.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

_CLASS_CONTENT, _MARK_ADD, _AT_FDCWD = 0x04, 0x01, -100
_OPENED, _READ = 0x0001_0000, 0x0002_0000
"""FAN_OPEN_PERM, FAN_ACCESS_PERM."""


@contextlib.contextmanager
def hanging(path: Path) -> Iterator[None]:
    """Whoever opens or reads the file waits until the block ends, this process too. Needs root.
    Raises OSError where the kernel does not do that."""
    libc = ctypes.CDLL(None, use_errno=True)
    listener = libc.fanotify_init(_CLASS_CONTENT, os.O_RDONLY)
    if listener < 0:
        raise OSError(ctypes.get_errno(), "fanotify_init")
    try:
        mask = ctypes.c_uint64(_OPENED | _READ)
        if libc.fanotify_mark(listener, _MARK_ADD, mask, _AT_FDCWD, os.fsencode(path)):
            raise OSError(ctypes.get_errno(), "fanotify_mark")
        yield
    finally:
        os.close(listener)  # Who waits goes on.
