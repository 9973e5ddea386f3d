"""The keys file: YAML, or a directory of such files, as a mounted Secret is.

    public: [/metrics]
    keys:
      - name: alice
        sha256: 64 hex digits, or a list of such while a key is being changed
        scopes: [infer, vectors:read]
        vectors: ["team-a-*"]
    ...

The dots are the end mark (see `steersman.server.auth.whole_yaml`): a file that is cut short gives
nobody more permissions than the whole one does. Keys are long and random, so one round of SHA-256
is enough; passwords would need a slow hash.
"""

import asyncio
import hashlib
import hmac
import logging
import os
import re
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from steersman.server.auth.audit import audit
from steersman.server.auth.permissions import SCOPES, KeyPermissions
from steersman.server.auth.whole_yaml import Document, NotWhole, load
from steersman.server.metrics import METRICS
from steersman.vectors.library.names import PATTERN
from steersman.vectors.operation import OPERATIONS, OperationName
from steersman.vectors.validation import first_problem

LOOK_EVERY_S: Final = 1.0
LOOK_WITHIN_S: Final = 1.0
"""How long requests wait for a file whose disk hangs; after that the previous keys count."""
MAY_BE_PUBLIC: Final = ("/metrics",)
"""Routes that a keys file may open to everybody."""
_LOOKING: Final = ThreadPoolExecutor(1, "steersman-keys")
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Signature = tuple[tuple[str, int, int, int, int], ...]
logger = logging.getLogger("vllm.steersman")


class KeysFileInvalid(ValueError):
    """The keys file cannot be read or breaks a rule; the message names the place."""


_UNLIMITED: Final[Any] = None


class _Key(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(pattern=rf"^{_NAME}$")]
    sha256: _Hash | Annotated[list[_Hash], Field(min_length=1, max_length=8)]
    scopes: Annotated[list[str], Field(min_length=1)]
    vectors: list[str] = ["*"]
    operations: Annotated[list[OperationName], Field(min_length=1)] = [*OPERATIONS]
    # Without null: a limit whose number is missing is a mistake, and not "no limit".
    max_relative_dose: Annotated[PositiveFloat, Field(allow_inf_nan=False)] = _UNLIMITED
    max_total_dose: Annotated[PositiveFloat, Field(allow_inf_nan=False)] = _UNLIMITED
    requests_per_minute: PositiveInt = _UNLIMITED
    max_concurrent_requests: PositiveInt = _UNLIMITED
    max_vectors: Annotated[int, Field(ge=0)] = _UNLIMITED
    max_jobs: Annotated[int, Field(ge=0)] = _UNLIMITED
    max_extract_rows: Annotated[int, Field(ge=0)] = _UNLIMITED
    # Null would be a default whose name is missing.
    preset: Annotated[str, Field(pattern=rf"^{PATTERN}$")] = _UNLIMITED
    locked: bool = False


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    public: list[str] = []
    keys: list[_Key]


_SHOULD_BE: Final = {
    "public": f"a list of routes that need no key, of {', '.join(MAY_BE_PUBLIC)}",
    "keys": "a list of keys, each with name, sha256 and scopes",
    "name": "1 to 64 letters, digits, '.', '_' or '-', the first of them a letter or digit",
    "sha256": "64 hex digits 0-9a-f, or a list of 1 to 8 such",
    "scopes": f"a list of one or more of {', '.join(SCOPES)}",
    "vectors": 'a list of patterns of names, as in ["team-a-*"]',
    "operations": f"a list of one or more of {', '.join(OPERATIONS)}",
    "max_relative_dose": "a number above 0",
    "max_total_dose": "a number above 0",
    "requests_per_minute": "a whole number above 0",
    "max_concurrent_requests": "a whole number above 0",
    "max_vectors": "a whole number, 0 or more",
    "max_jobs": "a whole number, 0 or more",
    "max_extract_rows": "a whole number, 0 or more",
    "preset": "the name of a preset",
    "locked": "true or false",
}


@dataclass(frozen=True)
class Hashed:
    """A key as it is in the file, and what it may do."""

    digest: bytes
    """SHA-256 of the key."""
    permissions: KeyPermissions


@dataclass(frozen=True)
class Read:
    """The content of a keys file, or of a directory of such files."""

    hashed: list[Hashed]
    public: frozenset[str] = frozenset()
    """Paths of routes that it opens to everybody."""


class Keys:
    """The keys in `path`, read again when it changes.

    If a file becomes invalid while the server runs, the previous keys stay in force; the fault is
    logged, and `steering_keys_stale` is 1 until it is fixed.
    """

    def __init__(self, path: Path, extra: tuple[str, ...] = ()) -> None:
        """`extra`: keys in plain text that may do everything (vLLM's own `--api-key`). Raises
        `KeysFileInvalid`."""
        self._path = path
        self._stale = False
        self._look_began = 0.0
        full = KeyPermissions("--api-key", frozenset(SCOPES))
        self._extra = [Hashed(_digest(key), full) for key in extra]
        self._signature = _signature(path)
        self._read = read(path)
        self._looked_at = time.monotonic()
        self._look: Future[None] | None = None
        """One that runs in a thread."""
        audit("keys.loaded", keys=self.names)

    @property
    def names(self) -> list[str]:
        """Names of the keys in the file."""
        return sorted({hashed.permissions.name for hashed in self._read.hashed})

    def is_public(self, path: str) -> bool:
        """Whether the file opens the route `path` to everybody."""
        return path in self._read.public

    def find(self, key: str) -> KeyPermissions | None:
        """The permissions of `key`; None for an unknown key. An unknown key takes as long as a
        known one."""
        if not key:
            return None
        presented, found = _digest(key), None
        for hashed in (*self._read.hashed, *self._extra):
            if hmac.compare_digest(presented, hashed.digest):
                found = hashed.permissions
        return found

    async def refresh(self) -> None:
        """Run `look` in a thread, because the disk may hang. Calls that arrive meanwhile wait for
        the same look, until `LOOK_WITHIN_S` seconds after its start at most."""
        if self._look is None:
            if time.monotonic() - self._looked_at < LOOK_EVERY_S:
                return
            self._look = _LOOKING.submit(self.look)
            self._look_began = time.monotonic()
        look = self._look
        left = self._look_began + LOOK_WITHIN_S - time.monotonic()
        done, _ = await asyncio.wait({asyncio.wrap_future(look)}, timeout=max(0.0, left))
        if not done:
            METRICS.keys_stale.set(1)
        elif self._look is look:
            self._look = None
            METRICS.keys_stale.set(int(self._stale))

    def look(self) -> None:
        """Read the file again if it has changed and was not checked a moment ago. Waits for the
        disk, so do not call it on the event loop."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        # Remembered also where looking or reading fails: the same trouble is logged once.
        signature: _Signature = ()
        try:
            try:
                signature = _signature(self._path)
            finally:
                known, self._signature = self._signature, signature
            if signature == known:
                return
            self._read = read(self._path)
        except KeysFileInvalid as error:
            if signature == known == ():
                return
            self._set_stale(True)
            logger.error("the changed keys file cannot be used, the previous keys stay: %s", error)
            return
        self._set_stale(False)
        logger.info("keys file read again: %d keys", len(self.names))
        audit("keys.loaded", keys=self.names)

    def _set_stale(self, stale: bool) -> None:
        self._stale = stale
        METRICS.keys_stale.set(int(stale))


def read(path: Path) -> Read:
    """Read the file or directory `path`. Raises `KeysFileInvalid`."""
    hashed: list[Hashed] = []
    public: frozenset[str] = frozenset()
    for file in _files(path):
        found = parse(_load(file), str(file))
        names = {one.permissions.name for one in hashed}
        if twice := names & {one.permissions.name for one in found.hashed}:
            raise KeysFileInvalid(f"{file}: {_safe(twice.pop())} is in another file, too")
        hashed += found.hashed
        public |= found.public
    owners: dict[bytes, str] = {}
    for one in hashed:
        if one.digest in owners:
            raise KeysFileInvalid(
                f"{path}: {_safe(owners[one.digest])} and {_safe(one.permissions.name)} have the "
                "same sha256: give each a key of its own"
            )
        owners[one.digest] = one.permissions.name
    return Read(hashed, public)


def parse(document: Document, where: str) -> Read:
    """Parse the text of one file; `where` is its name, for the message. Raises `KeysFileInvalid`,
    whose message has the line, the key's name and what is allowed, and never the text that is in
    the file."""

    def refuse(path: tuple[str | int, ...], reason: str) -> NoReturn:
        line = document.line(path)
        place = where if line is None else f"{where}, line {line}"
        who = _who(document.data, path)
        raise KeysFileInvalid(f"{place}: {who}{reason}; `steersman keys new NAME` makes an entry")

    try:
        file = _File.model_validate(document.data)
    except ValidationError as error:
        # Without the input, which may be a key in the clear.
        refuse(*_explained(error))
    for n, path in enumerate(file.public):
        if path not in MAY_BE_PUBLIC:
            refuse(("public", n), f"public must be {_SHOULD_BE['public']}")
    hashed: list[Hashed] = []
    for n, key in enumerate(file.keys):
        if key.name in {one.permissions.name for one in hashed}:
            refuse(("keys", n, "name"), "its name is used twice")
        for i, scope in enumerate(key.scopes):
            if scope not in SCOPES:
                refuse(("keys", n, "scopes", i), f"scopes must be {_SHOULD_BE['scopes']}")
        fields = key.model_dump(exclude={"sha256", "scopes", "vectors", "operations"})
        permissions = KeyPermissions(
            **fields,
            scopes=frozenset(key.scopes),
            vectors=tuple(key.vectors),
            operations=tuple(key.operations),
        )
        if key.locked and key.preset is None:
            refuse(("keys", n, "locked"), "locked needs preset, to which the key is bound")
        hashes = [key.sha256] if isinstance(key.sha256, str) else key.sha256
        if hash_of("") in hashes:
            refuse(("keys", n, "sha256"), "sha256 is the hash of an empty key")
        hashed += [Hashed(bytes.fromhex(digest), permissions) for digest in hashes]
    return Read(hashed, frozenset(file.public))


def _explained(error: ValidationError) -> tuple[tuple[str | int, ...], str]:
    """The place of the first fault in `error`, and what is allowed there."""
    problem = first_problem(error)
    loc = problem.location
    # Of a union pydantic names the member that does not fit, which is not a place in the file.
    fields = [n for n, step in enumerate(loc) if step in _SHOULD_BE]
    if problem.is_unknown_field:
        # Nor the name of a field that is not ours, which may be anything.
        known = _Key if loc[:1] == ("keys",) else _File
        return loc, f"there is an unknown field; fields are {', '.join(known.model_fields)}"
    if not fields:
        what = "a key must be name, sha256 and scopes" if loc else "the file must be keys:, a list"
        return loc, what
    name = str(loc[fields[-1]])
    path = loc[: fields[-1] + 1]
    if loc[-1:] != path[-1:] and name == "keys":
        return loc[:2], "must have name, sha256 and scopes, one a line"
    if problem.kind == "missing":
        return path[:-1], f"{name} is missing, which must be {_SHOULD_BE[name]}"
    return path, f"{name} must be {_SHOULD_BE[name]}"


def _who(data: Any, path: tuple[str | int, ...]) -> str:
    """Name or number of the key that contains `path`, for a message."""
    if len(path) < 2 or path[0] != "keys" or not isinstance(path[1], int):
        return ""
    try:
        name = data["keys"][path[1]]["name"]
    except (KeyError, IndexError, TypeError):
        name = None
    return f"key {_safe(name) if _is_safe(name) else f'number {path[1] + 1}'}: "


def _is_safe(name: object) -> bool:
    """Whether `name` is a valid name and does not look like a key that was written there by
    mistake."""
    return (
        isinstance(name, str)
        and re.fullmatch(_NAME, name) is not None
        and not name.startswith("sk-")
    )


def _safe(name: object) -> str:
    return repr(name) if _is_safe(name) else "one whose name looks like a key"


def hash_of(key: str) -> str:
    """The hash of `key`, as the file has it."""
    return _digest(key).hex()


def _load(file: Path) -> Document:
    try:
        return load(file.read_text())
    except OSError as error:
        raise KeysFileInvalid(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise KeysFileInvalid(f"{file} is not YAML: it is not UTF-8") from None
    except NotWhole as error:
        place = "" if error.line is None else f" (line {error.line})"
        raise KeysFileInvalid(f"{file} {error}{place}") from None


def _files(path: Path) -> list[Path]:
    """The YAML files of `path`. A mounted Secret is a directory with links to files in hidden
    directories."""
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
