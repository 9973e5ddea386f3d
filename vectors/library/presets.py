"""Presets: named `steering` values, beside the vectors of a library.

    presets/<name>.json   what a name stands for, and stood for before

A preset changes by one rename, under the library's lock, so several servers may share a directory.
What it stands for has a digest: two presets with one digest steer alike, as long as they pin the
digests of their vectors.
"""

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from steersman.vectors.errors import (
    PresetConflict,
    PresetNotFound,
    SteersmanError,
    VectorInvalid,
)
from steersman.vectors.file.metadata import check_description
from steersman.vectors.library import disk
from steersman.vectors.library.index import NameIndex
from steersman.vectors.library.names import check_name, parse_id

HISTORY: Final = 16
"""Versions of a preset that stay; older ones are dropped, so that nothing grows."""
_PINNED_DIGITS: Final = 32
"""Hex digits of a digest by which a pinned vector is asked for."""


@dataclass(frozen=True)
class Version:
    """What a preset stands for, or stood for."""

    steering: Mapping[str, Any]
    """The value of a `steering` field, its vectors as a list of uses."""
    pins: tuple[str, ...] = ()
    """For each use, the digest that its vector had, and then for each gate; empty for a preset that
    follows its names."""

    @property
    def digest(self) -> str:
        """`sha256:` and the hex of what it stands for."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    @property
    def vectors(self) -> tuple[str, ...]:
        """The names of its vectors, as it was written; those of gates at the end."""
        return tuple(parse_id(one["id"]).name for one in _naming(self.steering["vectors"]))

    def as_asked(self) -> dict[str, Any]:
        """The `steering` value of a request that uses it: pinned vectors are asked for by digest,
        which a name keeps for its last versions."""
        uses = [
            {**use, "gate": dict(use["gate"])} if use.get("gate") else dict(use)
            for use in self.steering["vectors"]
        ]
        for one, digest in zip(_naming(uses), self.pins, strict=False):
            name = parse_id(one["id"]).name
            one["id"] = f"{name}@{digest.removeprefix('sha256:')[:_PINNED_DIGITS]}"
        return {**self.steering, "vectors": uses}


def _naming(uses: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parts of uses that name a vector: the uses, then their gates."""
    return [*uses, *(use["gate"] for use in uses if use.get("gate"))]


@dataclass(frozen=True)
class Preset:
    """A name for a `steering` value. `versions[0]` is what it stands for. Times are Unix
    seconds."""

    name: str
    versions: tuple[Version, ...]
    created_at: int
    updated_at: int
    description: str = ""
    owner: str | None = None
    """The key that made it; None on a server without keys."""

    @property
    def now(self) -> Version:
        """What it stands for."""
        return self.versions[0]

    @property
    def digest(self) -> str:
        """The digest of what it stands for."""
        return self.now.digest

    @property
    def follow(self) -> bool:
        """Whether it uses, at each request, the vectors that its names stand for then."""
        return not self.now.pins

    def to_json(self) -> bytes:
        """The form that `from_json` takes back."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes, name: str) -> "Preset":
        """Read the preset `name`; raises `VectorInvalid` if it is not one."""
        try:
            written = json.loads(data)
            versions = tuple(_version(one) for one in written.pop("versions"))
            known = {one.name for one in fields(cls)}
            found = cls(versions=versions, **{k: v for k, v in written.items() if k in known})
            if found.name == name and versions:
                return found
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, SteersmanError):
            pass
        raise VectorInvalid(f"the record of preset {name!r} is damaged", code="damaged")


def _version(written: Any) -> Version:
    version = Version(dict(written["steering"]), tuple(written["pins"]))
    names = version.vectors
    if not names or len(version.pins) not in (0, len(names)):
        raise ValueError("a pin for each vector, or none")
    return version


class PresetStore:
    """The presets in the library directory `root`. Threads may share one instance, processes one
    directory. Every method raises `LibraryError` when the disk refuses."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._index = NameIndex(root / "presets", Preset.from_json)
        self._thread_lock = threading.Lock()

    def all(self) -> Mapping[str, Preset]:
        """Every whole preset, by name. Costs one `stat` unless something changed."""
        with disk.disk_errors():
            try:
                return self._index.all()
            except FileNotFoundError:  # The directory comes with the first preset.
                return {}

    def get(self, name: str) -> Preset:
        """The preset `name`. Raises `PresetNotFound`, or `VectorInvalid` for a damaged one."""
        check_name(name)
        with disk.disk_errors():
            found = self._index.get(name)
        if found is None:
            raise preset_not_found(name)
        return found

    def add(
        self, name: str, version: Version, description: str = "", owner: str | None = None
    ) -> tuple[Preset, bool]:
        """Keep `version` under `name`. Returns the preset and whether it is new: False if the name
        stands for the same already. Raises `PresetConflict` if it stands for something else, and
        `VectorInvalid` for a wrong name."""
        check_name(name)
        check_description(description)
        with self._changing():
            old = self._index.get(name)
            if old is not None:
                if old.digest == version.digest:
                    return old, False
                raise PresetConflict(
                    f"preset {name!r} stands for something else; PATCH it, or delete it first",
                    param="name",
                )
            now = int(time.time())
            return self._write(Preset(name, (version,), now, now, description, owner)), True

    def update(
        self, name: str, version: Version | None = None, description: str | None = None
    ) -> Preset:
        """Change what `name` stands for, or its description; None leaves it. Raises
        `PresetNotFound`."""
        if description is not None:
            check_description(description)
        with self._changing():
            old = changed = self.get(name)
            if version is not None:
                others = (one for one in old.versions if one.digest != version.digest)
                changed = replace(changed, versions=(version, *others)[:HISTORY])
            if description is not None:
                changed = replace(changed, description=description)
            if changed == old:
                return old
            return self._write(replace(changed, updated_at=int(time.time())))

    def delete(self, name: str) -> None:
        """Take a preset away, a damaged one too. Raises `PresetNotFound`."""
        check_name(name)
        with self._changing():
            try:
                disk.remove(self._index.path(name))
            except FileNotFoundError:
                raise preset_not_found(name) from None

    def naming(self, vector: str) -> list[str]:
        """The names of the presets that name `vector`, in order."""
        return sorted(name for name, one in self.all().items() if vector in one.now.vectors)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with disk.disk_errors(), self._thread_lock, disk.locked(self._root / "lock"):
            (self._root / "presets").mkdir(exist_ok=True)
            yield

    def _write(self, preset: Preset) -> Preset:
        disk.replace(self._index.path(preset.name), preset.to_json())
        return preset


def preset_not_found(name: str) -> PresetNotFound:
    """The error for a preset that is not there, or that the caller may not see."""
    return PresetNotFound(
        f"there is no preset {name!r}; GET /v1/steering/presets lists them", param="name"
    )
