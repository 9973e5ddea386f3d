"""The library: named vectors in a directory that several processes may share.

    objects/<64 hex>.safetensors   immutable content, by digest
    names/<name>.json              what a name stands for, and stood for before
    lock                           held while a name changes

A name changes by one rename after its content is safe on disk, so a crash at any moment leaves the
old state or the new one. Nothing is held in memory but headers.
"""

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from steersman.vectors.defaults import (
    Positions,
    check_layers,
    check_number,
    check_positions,
    check_safe_range,
)
from steersman.vectors.errors import (
    LibraryError,
    VectorConflict,
    VectorInvalid,
    VectorNotFound,
)
from steersman.vectors.file.format import SteeringVector, read_new, read_vector, write_vector
from steersman.vectors.file.metadata import check_description
from steersman.vectors.library import disk
from steersman.vectors.library.entry import Entry, StoredVector, described, make_entry
from steersman.vectors.library.index import NameIndex
from steersman.vectors.library.names import (
    check_is_name,
    check_name,
    not_found,
    parse_id,
    taken,
)
from steersman.vectors.library.objects import ObjectStore
from steersman.vectors.library.ownership import (
    Admit,
    Visible,
    admit_all,
    is_foreign,
    new_record,
    read_content,
    visible_digests,
    with_own_words,
)
from steersman.vectors.library.record import Record
from steersman.vectors.served import Described, ServedModel

__all__ = ["UNUSED_FOR_S", "Entry", "Library"]

UNUSED_FOR_S: Final = 3600.0
"""How long content outlives its last name: requests in flight, here and in replicas, finish."""

logger = logging.getLogger(__name__)
Entries = list[Entry]


class Library:
    """Named vectors under `root`, which is made if need be.

    Vectors that the served model cannot be steered with are refused; the arguments are the fields
    of `ServedModel`, and those left out are not checked. Servers of several models may share one
    directory: each lists the others' vectors, as ones that do not fit. Broken files are skipped
    and listed in `problems`. Threads may share one instance, processes one directory. Every method
    raises `LibraryError` when the disk refuses.
    """

    def __init__(
        self,
        root: Path,
        *,
        hidden_size: int | None = None,
        num_layers: int | None = None,
        sites: tuple[str, ...] | None = None,
        max_steps: int | None = None,
        fingerprint: str | None = None,
        require_fingerprint: bool = False,
        most_added: float | None = None,
        operations: tuple[str, ...] | None = None,
        reading_sites: tuple[str, ...] | None = None,
    ) -> None:
        self.root = root
        self._served = ServedModel(
            hidden_size,
            num_layers,
            sites,
            max_steps,
            fingerprint,
            require_fingerprint,
            most_added,
            operations,
            reading_sites,
        )
        self._objects = ObjectStore(root / "objects")
        self._names = NameIndex(root / "names", Record.from_json)
        self._thread_lock = threading.Lock()
        self._collect_at = 0.0
        with disk.disk_errors():
            for directory in (root / "objects", root / "names"):
                directory.mkdir(parents=True, exist_ok=True)
        self._open()

    @property
    def problems(self) -> dict[Path, str]:
        """Broken files that were found, and what is wrong with each."""
        broken = dict.fromkeys(self._names.broken.values(), "is not the record of a name")
        return broken | self._objects.problems

    def count(self) -> int:
        """Number of names."""
        with disk.disk_errors():
            return len(self._names.all())

    def names(self) -> tuple[str, ...]:
        """All names, in no order, of damaged vectors too."""
        with disk.disk_errors():
            return tuple(self._names.all())

    def add(
        self,
        data: bytes | Path,
        name: str | None = None,
        *,
        owner: str | None = None,
        admit: Admit = admit_all,
    ) -> tuple[Entry, bool]:
        """Store a vector under `name`, or else under the name in its metadata, made by `owner`.

        Returns it, and whether it is new: False if the name already has exactly this content.
        Raises `VectorInvalid` for a broken file, a bad or missing name or a vector for another
        model, `VectorConflict` if the name has other content, and what `admit` raises.
        """
        if name is not None:
            check_name(name)
        if isinstance(data, Path):
            with disk.disk_errors():
                data = data.read_bytes()
        vector, data = self._read(data)
        name = vector.name if name is None else name
        if name is None:
            raise VectorInvalid(
                "the vector has no name: send one as `name`, or write one into its metadata",
                param="name",
                code="name_missing",
            )
        self._check(vector)
        with disk.disk_errors():
            # Before the content is written, which would stay for a while; and again when nobody
            # else can change names.
            self._check_free(name, vector, admit)
            foreign = not self._objects.put(vector, data)
            with self._changing_names():
                old = self._check_free(name, vector, admit)
                record = old or self._write(
                    new_record(name, vector, owner, foreign, self._objects.header(vector.digest))
                )
        return self._entry(record, vector.digest), old is None

    def checked(self, data: bytes) -> tuple[SteeringVector, bytes]:
        """The vector in `data`, a file, and its file as the library would store it. Nothing is
        stored. Raises `VectorInvalid` as `add` does."""
        vector, data = self._read(data)
        self._check(vector)
        return vector, data

    def _read(self, data: bytes) -> tuple[SteeringVector, bytes]:
        vector = read_new(data)
        canonical = self._served.canonical(vector)
        return (vector, data) if canonical is vector else (canonical, write_vector(canonical))

    def _check(self, vector: SteeringVector) -> None:
        self.check_fits(described(vector))
        self._check_values(vector)

    def described(self, vector: SteeringVector, path: Path, name: str) -> Entry:
        """`vector`, which is in the file `path` and not in the library, as an entry of it would
        be."""
        now = int(time.time())
        record = Record(name, (vector.digest,), now, now)
        return make_entry(record, vector.digest, path, described(vector), self._served)

    def _check_free(self, name: str, vector: SteeringVector, admit: Admit) -> Record | None:
        """The record of `name` if it stands for `vector` already, or None if it is free."""
        admit(name, self._names.all())
        old = self._record_to_change(name)
        if old is not None and old.digests[0] != vector.digest:
            header = self._objects.header(old.digests[0])
            misfit = header and self._served.misfit(header)
            raise taken(name, vector.digest, misfit.message if misfit else None)
        return old

    def resolve(self, vector_id: str) -> Entry:
        """The vector for `name` or `name@<12 or more hex digits of one of its digests>`.

        Raises `VectorInvalid` if this cannot be an id, `VectorNotFound` if there is no such vector.
        """
        name, version = parse_id(vector_id)
        record = self._record(name)
        if record is None:
            raise not_found(name)
        return self._entry(
            record, record.digests[0] if version is None else record.version(version)
        )

    def update(
        self,
        name: str,
        *,
        description: str | None = None,
        coefficient: float | None = None,
        layers: tuple[int, ...] | None = None,
        positions: Positions | None = None,
        safe_range: tuple[float, float] | None = None,
        digest: str | None = None,
        visible: Visible | None = None,
    ) -> Entry:
        """Change what a name stands for, or its description, in one step; None leaves a field.

        Another `digest` makes the name stand for content that is in the library already; with
        `visible`, a test of names, for content that such a name has or had. Other
        defaults are other behaviour: they make new content, with a digest of its own. Versions so
        far stay addressable. Raises `VectorInvalid` naming the field, and `VectorNotFound`.
        """
        check_is_name(name)
        if description is not None:
            check_description(description)
        if safe_range is not None:
            safe_range = check_safe_range(safe_range)
        with disk.disk_errors(), self._changing_names():
            record = self._record_to_change(name)
            if record is None:
                raise not_found(name)
            changed = record
            if digest is not None:
                records = {} if visible is None else self._names.all()
                among = None if visible is None else visible_digests(records, visible)
                found = self._objects.find(digest, among)
                if found != record.digests[0]:
                    # A safe range is measured on one content and does not hold for another.
                    changed = replace(
                        changed,
                        digests=changed.with_digest(found),
                        safe_range=None,
                        base_model=None,
                    )
                    if visible is not None and is_foreign(found, records, visible):
                        changed = replace(changed, foreign=(*changed.foreign, found))
            self._objects.touch(changed.digests[:1])
            stored = self._stored(changed, changed.digests[0])
            if digest is not None:
                self.check_fits(stored, "digest")
                if coefficient is None and layers is None:
                    path = self._objects.path(changed.digests[0])
                    self._check_values(read_vector(path), "digest")
            if description is not None:
                changed = replace(changed, description=description)
            if safe_range is not None:
                changed = replace(changed, safe_range=safe_range)
            if coefficient is not None or layers is not None or positions is not None:
                made, own = self._with_defaults(changed, coefficient, layers, positions)
                if not own and record.owner is not None and made.digest not in record.digests:
                    changed = replace(changed, foreign=(*changed.foreign, made.digest))
                changed = replace(changed, digests=changed.with_digest(made.digest))
                changed = with_own_words(changed, made, self._objects.header(made.digest))
            if changed != record:
                self._objects.touch(record.digests)
                changed = self._write(replace(changed, updated_at=int(time.time())))
        self._collect_sometimes()
        return self._entry(changed, changed.digests[0])

    def delete(self, name: str) -> None:
        """Delete a name. Its content stays readable for `UNUSED_FOR_S` seconds, for requests in
        flight.

        Works for a damaged vector, too. Raises `VectorNotFound`.
        """
        check_is_name(name)
        with disk.disk_errors(), self._changing_names():
            try:
                record = self._names.get(name)
            except VectorInvalid:
                record = None
            self._objects.touch(record.digests if record else ())
            try:
                disk.remove(self._names.path(name))
            except FileNotFoundError:
                raise not_found(name) from None
            self._objects.forget(record.digests if record else ())
        self._collect_sometimes()

    def content_path(self, entry: Entry) -> Path:
        """The file of `entry`."""
        return self._objects.path(entry.digest)

    def check_writable(self) -> None:
        """Raise `LibraryError` if nothing could be added now."""
        probe = self.root / "names" / f"{disk.TEMP_PREFIX}probe-{threading.get_ident()}"
        with disk.disk_errors():
            disk.replace(probe, b"")
            probe.unlink(missing_ok=True)

    def collect(self, older_than_s: float = UNUSED_FOR_S) -> int:
        """Remove content that has had no name for `older_than_s` seconds, and files that a crash
        left behind.

        Returns the number of files removed. Removes no content while a name's record is broken,
        because its digests are then unknown.
        """
        with disk.disk_errors(), self._changing_names():
            removed = disk.remove_older(
                self.root / "names",
                time.time() - older_than_s,
                lambda name: name.startswith(disk.TEMP_PREFIX),
            )
            records = self._names.all()
            if self._names.broken:
                return removed
            wanted = {digest for record in records.values() for digest in record.digests}
            return removed + self._objects.collect(wanted, older_than_s)

    def page(
        self,
        after: str | None,
        limit: int,
        visible: Visible | None = None,
        fits: bool | None = None,
    ) -> tuple[Entries, bool]:
        """The first `limit` names of `list()` that are `visible` and come after `after`, and
        whether more follow. `fits`: True for only vectors that the served model can be steered
        with, False for only the others."""
        with disk.disk_errors():
            records = self._names.all()
        entries: Entries = []
        for name in sorted(name for name in records if after is None or name > after):
            if visible is not None and not visible(name):
                continue
            record = records[name]
            if self._objects.header(record.digests[0]) is None:
                continue
            if fits is None and len(entries) == limit:
                return entries, True
            entry = self._entry(record, record.digests[0])
            if fits is not None and fits != (entry.misfit is None):
                continue
            if len(entries) == limit:
                return entries, True
            entries.append(entry)
        return entries, False

    def list(self) -> Entries:
        """All intact vectors in their newest version, by name."""
        return self.page(None, sys.maxsize)[0]

    def _open(self) -> None:
        with disk.disk_errors():
            records = self._names.all()
            self._objects.report_missing(record.digests[0] for record in records.values())
        for path in self._names.broken.values():
            logger.warning("vector library: skipping %s: it is not the record of a name", path)
        self._collect_sometimes()

    def _collect_sometimes(self) -> None:
        now = time.monotonic()
        if now < self._collect_at:
            return
        self._collect_at = now + UNUSED_FOR_S
        try:
            self.collect()
        except LibraryError as error:
            # The call at hand is done, and a directory that cannot be written can still be read.
            logger.warning("vector library: %s", error)

    @contextmanager
    def _changing_names(self) -> Iterator[None]:
        with self._thread_lock, disk.locked(self.root / "lock"):
            yield

    def _record(self, name: str) -> Record | None:
        with disk.disk_errors():
            try:
                return self._names.get(name)
            except VectorInvalid:
                return None

    def _record_to_change(self, name: str) -> Record | None:
        try:
            return self._names.get(name)
        except VectorInvalid:
            raise VectorConflict(
                f"the library's record of {name!r} is damaged; delete {name!r} and upload it again",
                param="name",
                code="vector_damaged",
            ) from None

    def _write(self, record: Record) -> Record:
        disk.replace(self._names.path(record.name), record.to_json())
        return record

    def _stored(self, record: Record, digest: str) -> StoredVector:
        stored = self._objects.header(digest)
        if stored is None:
            raise VectorNotFound(
                f"the file of vector {record.name!r} is damaged or gone; upload it again",
                param="id",
                code="vector_damaged",
            )
        return stored

    def _entry(self, record: Record, digest: str) -> Entry:
        stored = self._stored(record, digest)
        return make_entry(record, digest, self._objects.path(digest), stored, self._served)

    def _with_defaults(
        self,
        record: Record,
        coefficient: float | None,
        layers: tuple[int, ...] | None,
        positions: Positions | None,
    ) -> tuple[SteeringVector, bool]:
        """New content: the record's with other defaults, and with what the name says of itself; and
        whether its file is ours."""
        entry = self._entry(record, record.digests[0])
        vector = replace(
            read_content(entry),
            description=entry.description,
            safe_range=entry.safe_range,
            base_model=entry.base_model,
        )
        if coefficient is not None:
            vector = replace(vector, coefficient=check_number(coefficient, "coefficient"))
        if layers is not None:
            available = {layer for _, layer in vector.tensors}
            vector = replace(vector, layers=check_layers(layers, available))
        if positions is not None:
            vector = replace(vector, positions=check_positions(positions))
        if coefficient is not None or layers is not None:
            self._check_values(vector, "layers" if coefficient is None else "coefficient")
        return vector, self._objects.put(vector, write_vector(vector))

    def check_fits(self, vector: Described, param: str | None = None) -> None:
        """Raise `VectorInvalid` for a vector that the served model cannot be steered with: it may
        have been stored for another model, or by another server. The error is about `param`, or
        else about the part of the vector."""
        misfit = self._served.misfit(vector)
        if misfit is not None:
            misfit.param = param or misfit.param
            raise misfit

    def _check_values(self, vector: SteeringVector, param: str | None = None) -> None:
        """Raise `VectorInvalid`, about `param` or the part of the vector, if no request could be
        steered with its values at its defaults."""
        unfit = self._served.unfit_values(vector)
        if unfit is not None:
            unfit.param = param or unfit.param
            raise unfit
