"""Who may see what: owners of names, and content that two of them share.

Content is kept once, by digest, whoever uploads it. So content can be *foreign* to a name:
another owner's file brought it first. The owner of the name may then read what follows from the
tensors and defaults, and not the metadata of that file.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from steersman.vectors.file.format import SteeringVector, read_vector
from steersman.vectors.library.entry import Entry, StoredVector
from steersman.vectors.library.record import Record

Records = Mapping[str, Record]
Visible = Callable[[str], bool]
"""Whether the caller may see the vector of this name."""
Admit = Callable[[str, Records], None]
"""Raises if a vector may not be added under this name, beside these."""


def admit_all(name: str, records: Records) -> None:
    """Admits every vector, for a library without rules of its own."""


def visible_digests(records: Records, visible: Visible) -> set[str]:
    """Content that `visible` names have or had."""
    return {digest for name in records if visible(name) for digest in records[name].digests}


def is_foreign(digest: str, records: Records, visible: Visible) -> bool:
    """Whether a caller who sees `visible` names may know only the content of `digest`, and not its
    file's metadata."""
    return all(
        digest in records[name].foreign
        for name in records
        if visible(name) and digest in records[name].digests
    )


def new_record(
    name: str, vector: SteeringVector, owner: str | None, foreign: bool, stored: StoredVector | None
) -> Record:
    """The record of a new name for `vector`. It has the description, safe range and base model of
    `vector` where they differ from those of `stored`, the file of its digest in the library."""
    now = int(time.time())
    record = Record(
        name,
        (vector.digest,),
        created_at=now,
        updated_at=now,
        owner=owner,
        foreign=(vector.digest,) if foreign and owner is not None else (),
    )
    return with_own_words(record, vector, stored)


def with_own_words(record: Record, vector: SteeringVector, stored: StoredVector | None) -> Record:
    """`record` with the description, safe range and base model of `vector` where they differ from
    those of `stored`, the file of its digest in the library."""
    if stored is not None and vector.description != stored.description:
        record = replace(record, description=vector.description)
    if stored is not None and vector.safe_range != stored.safe_range:
        record = replace(record, safe_range=vector.safe_range)
    foreign = vector.digest in record.foreign
    if vector.base_model and (
        foreign or (stored is not None and vector.base_model != stored.base_model)
    ):
        record = replace(record, base_model=vector.base_model)
    return record


def read_content(entry: Entry) -> SteeringVector:
    """The vector of `entry`, with the metadata that the owner of its name may see."""
    vector = read_vector(entry.path)
    if not entry.foreign:
        return vector
    return SteeringVector(
        vector.tensors,
        numbers=vector.numbers,
        operation=vector.operation,
        name=entry.name,
        description=entry.description,
        coefficient=vector.coefficient,
        layers=vector.layers,
        positions=vector.positions,
        safe_range=entry.safe_range,
    )
