"""Files that are whole or absent: temp file, fsync, rename, fsync of the directory."""

import contextlib
import errno
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from filelock import FileLock

from steersman.vectors.errors import LibraryError, LibraryFull, LibraryReadOnly

TEMP_PREFIX: Final = ".tmp-"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS)
_POLL_S: Final = 0.01
_NOT_ALLOWED: Final = (errno.EACCES, errno.EPERM)
FULL: Final = "the vector library's disk is full; nothing was changed"
READ_ONLY: Final = (
    "the vector library cannot be written; nothing was changed: have its directory (--library) "
    "mounted for writing, and owned by the user that the server runs as"
)
logger = logging.getLogger(__name__)


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Turn `OSError` into `LibraryError`. What the client reads names no path; the log does."""
    try:
        yield
    except OSError as error:
        logger.error("vector library: %s", error)
        if error.errno in _FULL:
            raise LibraryFull(FULL) from error
        if error.errno == errno.EROFS:
            raise LibraryReadOnly(READ_ONLY) from error
        if error.errno in _NOT_ALLOWED:
            raise LibraryReadOnly(
                f"the vector library's disk refused ({error.strerror}); nothing was changed: have "
                "its directory (--library) and what is in it owned by the user that the server "
                "runs as"
            ) from error
        raise LibraryError(
            f"the vector library's disk refused ({error.strerror or type(error).__name__}); "
            "nothing was changed"
        ) from error


def obstacle(directory: Path) -> str | None:
    """Why nothing can be written under `directory` now, where this can be seen without writing;
    None if nothing prevents it. Raises `OSError` if the directory cannot be checked."""
    with contextlib.suppress(PermissionError):
        space = os.statvfs(directory)
        if not space.f_flag & os.ST_RDONLY and os.access(directory, os.W_OK | os.X_OK):
            return FULL if not space.f_bavail or not space.f_favail else None
    return READ_ONLY


def replace(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Put `data` at `path` in one step, over whatever was there. The file gets the permission bits
    `mode`, or without it those that the umask leaves of 0666."""
    temporary = path.with_name(f"{TEMP_PREFIX}{secrets.token_hex(8)}")
    # Not tempfile's 0600: replicas may run as other users, so the umask decides.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with open(descriptor, "wb") as file:
            if mode is not None:
                os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def remove(path: Path) -> None:
    """Remove `path`, durably. Raises `FileNotFoundError`."""
    path.unlink()
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames and removals in `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` against other processes; the lock of a dead process is released.

    Some network file systems have no locks. There, of two replicas that change one name at the same
    moment one change remains, whole. Raises `OSError` if the file cannot be opened.
    """
    # No soft lock in its place: that is a file, which outlives a process that dies.
    lock = FileLock(path, poll_interval=_POLL_S, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()


def touch(path: Path) -> None:
    """Set the modification time of `path` to now, if it exists."""
    with contextlib.suppress(FileNotFoundError):
        os.utime(path)


def remove_older(directory: Path, cutoff: float, unwanted: Callable[[str], bool]) -> int:
    """Remove the files of `directory` whose names are `unwanted` and that were changed before
    `cutoff` (Unix seconds)."""
    removed = 0
    with os.scandir(directory) as files:
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                if unwanted(file.name) and file.stat().st_mtime < cutoff:
                    os.unlink(file.path)
                    removed += 1
    if removed:
        sync_directory(directory)
    return removed
