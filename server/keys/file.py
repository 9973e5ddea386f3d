"""The keys file: YAML, or a directory of such files, as a mounted Secret is.

    keys:
      - name: alice
        sha256: 64 hex digits, or a list of such while a key is being changed
        scopes: [infer, vectors:read]
        vectors: ["team-a-*"]

Keys are long and random, so one round of SHA-256 is enough; a password would want more.
"""

import hashlib
import hmac
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from server.audit import audit
from server.keys.rights import SCOPES, Rights
from server.metrics import METRICS

LOOK_EVERY_S: Final = 1.0
_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Signature = tuple[tuple[str, int, int, int, int], ...]
_log = logging.getLogger("vllm.steersman")


class KeysFileInvalid(ValueError):
    """The keys file cannot be read or breaks a rule; the message names the place."""


class _Key(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    sha256: _Hash | Annotated[list[_Hash], Field(min_length=1, max_length=8)]
    scopes: Annotated[list[str], Field(min_length=1)]
    vectors: list[str] = ["*"]
    max_relative_dose: PositiveFloat | None = None
    max_total_dose: PositiveFloat | None = None
    requests_per_minute: PositiveInt | None = None
    max_concurrent_requests: PositiveInt | None = None
    max_vectors: Annotated[int, Field(ge=0)] | None = None
    max_jobs: Annotated[int, Field(ge=0)] | None = None
    max_extract_rows: Annotated[int, Field(ge=0)] | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    keys: list[_Key]


@dataclass(frozen=True)
class Hashed:
    """A key as the file has it, and what it may do."""

    digest: bytes
    """SHA-256 of the key."""
    rights: Rights


class Keys:
    """The keys in `path`, read again when it changes.

    A file that turns bad while the server runs is told in the log and, while it is bad, in
    `steering_keys_stale`; the keys that were good stay.
    """

    def __init__(self, path: Path, extra: tuple[str, ...] = ()) -> None:
        """`extra`: keys in the clear that may do everything (vLLM's own `--api-key`). Raises
        `KeysFileInvalid`."""
        self._path = path
        full = Rights("--api-key", frozenset(SCOPES))
        self._extra = [Hashed(_digest(key), full) for key in extra]
        self._signature = _signature(path)
        self._hashed = read(path)
        self._looked_at = time.monotonic()
        audit("keys.loaded", keys=self.names)

    @property
    def names(self) -> list[str]:
        """Of the keys in the file."""
        return sorted({hashed.rights.name for hashed in self._hashed})

    def find(self, key: str) -> Rights | None:
        """The rights of `key`. Takes as long for one that is wrong as for any that is right."""
        self.look()
        if not key:
            return None
        presented, found = _digest(key), None
        for hashed in (*self._hashed, *self._extra):
            if hmac.compare_digest(presented, hashed.digest):
                found = hashed.rights
        return found

    def look(self) -> None:
        """Read the file again if it has changed, as far as that was not asked a moment ago."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        # Remembered also where looking or reading fails: the same trouble is told once.
        signature: _Signature = ()
        try:
            try:
                signature = _signature(self._path)
            finally:
                known, self._signature = self._signature, signature
            if signature == known:
                return
            self._hashed = read(self._path)
        except KeysFileInvalid as error:
            if signature == known == ():
                return
            METRICS.keys_stale.set(1)
            _log.error("keys file not read again, the keys of before stay: %s", error)
            return
        METRICS.keys_stale.set(0)
        _log.info("keys file read again: %d keys", len(self.names))
        audit("keys.loaded", keys=self.names)


def read(path: Path) -> list[Hashed]:
    """The keys of `path`. Raises `KeysFileInvalid`."""
    hashed: list[Hashed] = []
    names: set[str] = set()
    for file in _files(path):
        found = parse(_load(file), str(file))
        if twice := names & {one.rights.name for one in found}:
            raise KeysFileInvalid(f"{file}: {twice.pop()!r} is in another file, too")
        names |= {one.rights.name for one in found}
        hashed += found
    if len({one.digest for one in hashed}) < len(hashed):
        raise KeysFileInvalid(f"{path}: two entries have the same sha256")
    return hashed


def parse(data: Any, where: str) -> list[Hashed]:
    """The keys of one file's `data`; `where` it is, for the message. Raises `KeysFileInvalid`."""
    try:
        keys = _File.model_validate(data).keys
    except ValidationError as error:
        # Without the input, for the same reason as in `_load`.
        first = error.errors(include_url=False, include_input=False)[0]
        # Nor the name of a field that is not ours.
        loc = first["loc"][:-1] if first["type"] == "extra_forbidden" else first["loc"]
        place = ".".join(str(part) for part in loc) or "the file"
        raise KeysFileInvalid(
            f"{where}: {place}: {first['msg']}; `steersman keys new NAME` prints a whole entry"
        ) from None
    hashed: list[Hashed] = []
    for n, key in enumerate(keys):
        if key.name in {one.rights.name for one in hashed}:
            raise KeysFileInvalid(f"{where}: keys.{n}.name: {key.name!r} is there twice")
        if unknown := sorted(set(key.scopes) - set(SCOPES)):
            raise KeysFileInvalid(
                f"{where}: keys.{n}.scopes: {unknown[0]!r} is none of {', '.join(SCOPES)}"
            )
        fields = key.model_dump(exclude={"sha256", "scopes", "vectors"})
        rights = Rights(**fields, scopes=frozenset(key.scopes), vectors=tuple(key.vectors))
        hashes = [key.sha256] if isinstance(key.sha256, str) else key.sha256
        if hash_of("") in hashes:
            raise KeysFileInvalid(
                f"{where}: keys.{n}.sha256: this is the hash of nothing; `steersman keys new NAME` "
                "makes a key and its hash"
            )
        hashed += [Hashed(bytes.fromhex(digest), rights) for digest in hashes]
    return hashed


def hash_of(key: str) -> str:
    """What stands in the file for `key`."""
    return _digest(key).hex()


def _load(file: Path) -> Any:
    try:
        # By the C parser where there is one: half a thousand keys take it milliseconds.
        return yaml.load(file.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as error:
        raise KeysFileInvalid(f"{file}: {error.strerror}") from None
    except Exception as error:  # noqa: BLE001  # The constructors of its tags raise what they like.
        # Without the text around it: it may be a key that somebody wrote there in the clear.
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f" (line {mark.line + 1})"
        raise KeysFileInvalid(f"{file} is not YAML{place}") from None


def _files(path: Path) -> list[Path]:
    """A mounted Secret is a directory with links to files in hidden ones."""
    try:
        if not path.is_dir():
            return [path]
        files = sorted(f for f in path.iterdir() if f.suffix in (".yaml", ".yml") and f.is_file())
    except OSError as error:
        raise KeysFileInvalid(f"{path}: {error.strerror}") from None
    if not files:
        raise KeysFileInvalid(f"{path} has no *.yaml in it")
    return files


def _signature(path: Path) -> _Signature:
    try:
        stats = [(str(file), os.stat(file)) for file in _files(path)]
    except OSError as error:
        raise KeysFileInvalid(f"{path}: {error.strerror}") from None
    # With ctime: a file that may be read from now on has nothing else new.
    return tuple((n, s.st_ino, s.st_mtime_ns, s.st_ctime_ns, s.st_size) for n, s in stats)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
