"""Uploads of other tools' files, of the kinds that a server may read.

These are GGUF, and safetensors whose tensors are named in another way: headers with bounds, and
numbers. Pickles and archives are left to `steersman vectors import`, on a user's machine.
"""

import re
import tempfile
from pathlib import Path
from typing import Final

from steersman.server.auth.library_view import LibraryView
from steersman.server.library.upload import Upload
from steersman.vectors.errors import SteersmanError, VectorInvalid
from steersman.vectors.file.format import write_vector
from steersman.vectors.formats import load
from steersman.vectors.library.library import Entry

_GGUF: Final = b"GGUF"
_MOST_NAME: Final = 100
"""Characters of a file's name that a vector gets for its own, where it has no other."""


def add_upload(library: LibraryView, upload: Upload, num_layers: int) -> tuple[Entry, bool]:
    """Store the vector of `upload`, translated into our own format if it is another tool's. Returns
    it, and whether it is new.

    `num_layers`: of the served model; tensors past its last block are left out. Raises
    `VectorInvalid` and what `LibraryView.add` raises. Do not call it on the event loop.
    """
    data = upload.file.read()
    if data.startswith(_GGUF):
        return library.add(_translated(data, upload.filename, num_layers), upload.name)
    try:
        return library.add(data, upload.name)
    except VectorInvalid as error:
        if error.code != "unknown_tensor":
            raise
        try:
            translated = _translated(data, upload.filename, num_layers)
        except SteersmanError:
            # What to do is said in terms of our own names; the importer's options are not here.
            raise error from None
    return library.add(translated, upload.name)


def _translated(data: bytes, filename: str, num_layers: int) -> bytes:
    # The reader maps a file, and a vector without a name gets the file's.
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(filename).stem)[:_MOST_NAME].strip("._-")
    suffix = ".gguf" if data.startswith(_GGUF) else ".safetensors"
    with tempfile.TemporaryDirectory(prefix="steersman-upload-") as folder:
        path = Path(folder) / f"{stem or 'vector'}{suffix}"
        path.write_bytes(data)
        return write_vector(load(path, num_layers=num_layers))
