"""The content of a library: immutable files, named by digest."""

import contextlib
import logging
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from steersman.vectors.errors import SteersmanError, VectorInvalid, VectorNotFound, shown
from steersman.vectors.file.format import SteeringVector, read_vector
from steersman.vectors.library import disk
from steersman.vectors.library.entry import StoredVector, read_stored

_SUFFIX: Final = ".safetensors"
_CACHED: Final = 16384
_CACHED_BYTES: Final = 64 << 20
"""Of headers that are held, by `StoredVector.weight`."""
_WANTED: Final = re.compile(r"(?:sha256:)?([0-9a-f]{12,64})", re.ASCII)
logger = logging.getLogger(__name__)


class ObjectStore:
    """Files of vectors under `directory`, and a bounded cache of their headers.

    `problems` maps the paths of broken files to what is wrong with them.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._headers: OrderedDict[str, StoredVector] = OrderedDict()
        self._weight = 0
        self.problems: dict[Path, str] = {}

    def path(self, digest: str) -> Path:
        """The path of the file of `digest`, whether or not it exists."""
        return self._directory / _file_name(digest)

    def put(self, vector: SteeringVector, data: bytes) -> bool:
        """Store `data`, the file of `vector`, unless there is an intact file with the same digest.
        Returns whether the stored file is now `data`."""
        path = self.path(vector.digest)
        # Before looking: the file must not be collected between here and being named.
        disk.touch(path)
        sound = _is_sound(path, vector.digest)
        if not sound:
            disk.replace(path, data)
            self.forget((vector.digest,))
        self.problems.pop(path, None)
        return not sound or path.read_bytes() == data

    def header(self, digest: str) -> StoredVector | None:
        """All of an object except its values; None if its file is broken or gone."""
        path = self.path(digest)
        try:
            size = path.stat().st_size
            with self._lock:
                stored = self._headers.get(digest)
                # Files do not change, but disks lose them and people cut them short.
                if stored is not None and stored.size == size:
                    self._headers.move_to_end(digest)
                    return stored
            stored = read_stored(path)
        except SteersmanError as error:
            self._report(path, error.message)
            return None
        except OSError as error:
            self._report(path, f"cannot be read: {error.strerror}")
            return None
        self.problems.pop(path, None)
        with self._lock:
            self._drop(digest)
            self._headers[digest] = stored
            self._weight += stored.weight
            while len(self._headers) > _CACHED or self._weight > _CACHED_BYTES:
                self._drop(next(iter(self._headers)))
        return stored

    def forget(self, digests: Iterable[str]) -> None:
        """Drop the cached headers of these digests: their names are gone."""
        with self._lock:
            for digest in digests:
                self._drop(digest)

    def _drop(self, digest: str) -> None:
        stored = self._headers.pop(digest, None)
        if stored is not None:
            self._weight -= stored.weight

    def find(self, wanted: object, among: Collection[str] | None = None) -> str:
        """The one digest, of all or of `among`, that begins with `wanted` (whole, or 12 or more hex
        digits).

        Raises `VectorInvalid` if it is not a digest or fits two objects, `VectorNotFound` if it
        fits none.
        """
        match = _WANTED.fullmatch(wanted) if isinstance(wanted, str) else None
        if match is None:
            raise VectorInvalid(
                f"{shown(wanted)} is not a digest; give 'sha256:' and 64 hex digits, or at least "
                "the first 12 of them",
                param="digest",
            )
        found = [path.name for path in self._directory.glob(f"{match[1]}*{_SUFFIX}")]
        if among is not None:
            files = {_file_name(digest) for digest in among}
            found = [name for name in found if name in files]
        if not found:
            raise VectorNotFound(
                f"no vector with digest {shown(wanted)} is in the library; upload it first",
                param="digest",
            )
        if len(found) > 1:
            raise VectorInvalid(
                f"{len(found)} vectors' digests begin with {shown(wanted)}; give more of it",
                param="digest",
            )
        return f"sha256:{found[0].removesuffix(_SUFFIX)}"

    def touch(self, digests: Collection[str]) -> None:
        """Restart the time after which `collect` may remove the object."""
        for digest in digests:
            disk.touch(self.path(digest))

    def collect(self, wanted: Collection[str], older_than_s: float) -> int:
        """Remove objects that are not `wanted` and have not been wanted for `older_than_s`
        seconds."""
        files = {_file_name(digest) for digest in wanted}
        removed = disk.remove_older(
            self._directory, time.time() - older_than_s, lambda name: name not in files
        )
        # Other servers remove names, too, without a note to this one.
        self.forget([digest for digest in list(self._headers) if _file_name(digest) not in files])
        for path in [path for path in list(self.problems) if path.name not in files]:
            self.problems.pop(path, None)
        return removed

    def report_missing(self, digests: Iterable[str]) -> None:
        """Put digests without a file among the problems."""
        present = set(os.listdir(self._directory))
        for digest in digests:
            if _file_name(digest) not in present:
                self._report(self.path(digest), "the file is missing")

    def _report(self, path: Path, reason: str) -> None:
        if path not in self.problems:
            logger.warning("vector library: skipping %s: %s", path, reason)
        self.problems[path] = reason


def _file_name(digest: str) -> str:
    return f"{digest.removeprefix('sha256:')}{_SUFFIX}"


def _is_sound(path: Path, digest: str) -> bool:
    with contextlib.suppress(SteersmanError):
        return read_vector(path).digest == digest
    return False
