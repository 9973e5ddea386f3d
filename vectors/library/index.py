"""The names of a library, as they are on disk now: other processes change them, too."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Generic, TypeVar

from steersman.vectors.errors import VectorInvalid
from steersman.vectors.library.disk import TEMP_PREFIX

_SUFFIX: Final = ".json"
_SETTLED_S: Final = 2.0
"""Two changes within one tick of a file system's clock leave one time stamp (NFS: a second). A scan
is believed only if the directory had the same stamp this long before it."""

Signature = tuple[int, int, int]
Record = TypeVar("Record")


class NameIndex(Generic[Record]):
    """Reads the files `<name>.json` of a directory, each once after every change.

    Assumption: a file changes only when another is renamed over it, as
    `steersman.vectors.library.disk` does. Guarantees: `get` and `all` show every change that the
    file system shows; broken files are only in `broken`.
    """

    def __init__(self, directory: Path, parse: Callable[[bytes, str], Record]) -> None:
        """`parse(content, name)` makes a record, or raises `VectorInvalid`."""
        self._directory = directory
        self._parse = parse
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Signature, Record]] = {}
        self._stamp = 0
        self._stamp_seen_at = 0.0
        self._scanned_at = 0.0
        self._records: Mapping[str, Record] = {}
        self.broken: Mapping[str, Path] = {}

    def path(self, name: str) -> Path:
        """The file of `name`."""
        return self._directory / f"{name}{_SUFFIX}"

    def get(self, name: str) -> Record | None:
        """The record of `name`, or None. Raises `VectorInvalid` if its file is broken."""
        path = self.path(name)
        try:
            signature = _signature(path.stat())
        except FileNotFoundError:
            self._known.pop(name, None)
            return None
        known = self._known.get(name)
        if known is not None and known[0] == signature:
            return known[1]
        try:
            record = self._parse(path.read_bytes(), name)
        except FileNotFoundError:
            return None
        self._known[name] = (signature, record)
        return record

    def all(self) -> Mapping[str, Record]:
        """Every whole record, by name. Costs one `stat` unless something changed."""
        with self._lock:
            now = time.monotonic()
            stamp = self._directory.stat().st_mtime_ns
            if stamp != self._stamp:
                self._stamp, self._stamp_seen_at, self._scanned_at = stamp, now, 0.0
            if not self._scanned_at or self._scanned_at - self._stamp_seen_at < _SETTLED_S:
                self._scan()
                self._scanned_at = now
            return self._records

    def _scan(self) -> None:
        records: dict[str, Record] = {}
        known: dict[str, tuple[Signature, Record]] = {}
        broken: dict[str, Path] = {}
        with os.scandir(self._directory) as files:
            for file in files:
                if file.name.startswith(TEMP_PREFIX):
                    continue
                name = file.name.removesuffix(_SUFFIX)
                try:
                    signature = _signature(file.stat())
                    record = self._read(name, file, signature)
                except FileNotFoundError:
                    continue
                except OSError:
                    record = None
                if record is None:
                    broken[file.name] = Path(file.path)
                else:
                    known[name] = (signature, record)
                    records[name] = record
        self._known = known
        self._records = MappingProxyType(records)
        self.broken = broken

    def _read(self, name: str, file: os.DirEntry[str], signature: Signature) -> Record | None:
        if not file.name.endswith(_SUFFIX):
            return None
        known = self._known.get(name)
        if known is not None and known[0] == signature:
            return known[1]
        # Not through `Path`, which with thousands of names takes as long as the reading.
        with open(file.path, "rb") as content:
            data = content.read()
        try:
            return self._parse(data, name)
        except VectorInvalid:
            return None


def _signature(stat: os.stat_result) -> Signature:
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
