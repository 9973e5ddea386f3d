"""Vectors that requests bring with them: files by digest in a folder beside the library's content,
without names, and as many as fit into a number of bytes.

    sent/<64 hex>.safetensors    what the workers read; the one that was used longest ago goes first
"""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from steersman.vectors.digest import short
from steersman.vectors.errors import SentFull
from steersman.vectors.library import disk
from steersman.vectors.library.entry import Entry
from steersman.vectors.library.library import Library
from steersman.vectors.library.objects import ObjectStore

FOLDER: Final = "sent"
KEPT_FOR_S: Final = 60.0
"""How long a file stays behind its last use, at least: another server's request may need it."""
_REMEMBERED: Final = 512


class SentVectors:
    """The files in `library`'s folder `sent`, of at most `most_bytes` together. Threads may share
    one instance, processes one folder."""

    def __init__(
        self, library: Library, most_bytes: int, in_use: Callable[[], Collection[str]]
    ) -> None:
        """`in_use`: the digests that requests in flight of this process need."""
        self._library = library
        self._folder = library.root / FOLDER
        self._objects = ObjectStore(self._folder)
        self._most_bytes = most_bytes
        self._in_use = in_use
        self._known: OrderedDict[bytes, Entry] = OrderedDict()
        """By the SHA-256 of the file, so that one that is sent again is not parsed again."""
        self._lock = threading.Lock()

    def keep(self, data: bytes) -> Entry:
        """The vector in `data`, a safetensors file, once it is where workers find it. Its name is
        `data:` and the beginning of its digest. Raises what `Library.add` raises for a file, and
        `LibraryError`, also where vectors in use take all of the folder's bytes."""
        mark = hashlib.sha256(data).digest()
        with self._lock, disk.disk_errors():
            found = self._known.get(mark)
            if found is not None and found.path.exists():
                self._known.move_to_end(mark)
                disk.touch(found.path)
                return found
            self._known.pop(mark, None)
        vector, data = self._library.checked(data)
        with self._lock, disk.disk_errors():
            self._folder.mkdir(exist_ok=True)
            path = self._objects.path(vector.digest)
            if not path.exists():
                self._make_room(len(data))
            self._objects.put(vector, data)
            entry = self._library.described(vector, path, f"data:{short(vector.digest)}")
            self._known[mark] = entry
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return entry

    def _make_room(self, size: int) -> None:
        """Remove the files that were used longest ago until `size` bytes fit."""
        used = {self._objects.path(digest).name for digest in self._in_use()}
        files = sorted(
            ((path, path.stat()) for path in self._folder.iterdir() if path.is_file()),
            key=lambda file: file[1].st_mtime,
        )
        free = self._most_bytes - sum(stat.st_size for _, stat in files)
        cutoff = time.time() - KEPT_FOR_S
        for path, stat in files:
            if free >= size:
                return
            if path.name not in used and stat.st_mtime < cutoff:
                path.unlink(missing_ok=True)
                free += stat.st_size
        if free < size:
            raise SentFull(
                f"vectors that requests have sent fill the {self._most_bytes} bytes that there are "
                "for them (--max-inline-cache-bytes); try again in a minute, or upload the vector"
            )


def sent_path(library: Path, digest: str) -> Path:
    """Where the file of `digest` is if a request has sent it to the server of this `library`."""
    return ObjectStore(library / FOLDER).path(digest)
