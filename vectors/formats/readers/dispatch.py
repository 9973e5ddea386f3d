"""The one dispatcher: a file, alone or in a folder, to the reader of what it is."""

from pathlib import Path

from steersman.vectors.errors import VectorInvalid
from steersman.vectors.formats.imported import ImportedFile, Options
from steersman.vectors.formats.kinds import FORMATS, SUFFIXES, kind_of
from steersman.vectors.formats.readers.gguf import read_gguf
from steersman.vectors.formats.readers.numpy import read_npy, read_npz
from steersman.vectors.formats.readers.safetensors import read_safetensors
from steersman.vectors.formats.readers.svec import read_svec
from steersman.vectors.formats.readers.torch import read_torch
from steersman.vectors.vector import SteeringVector


def read_file(path: Path, options: Options) -> ImportedFile | SteeringVector:
    """Read the vector in `path`. Raises `VectorInvalid`, `OSError`, `PackageMissing`."""
    if not path.stat().st_size:
        raise VectorInvalid("the file is empty", param="file", code="empty_file")
    # A broken file gets the error of what its name says that it should be.
    match kind_of(path) or SUFFIXES.get(path.suffix.lower()):
        case "gguf":
            return read_gguf(path)
        case "safetensors":
            return read_safetensors(path, options)
        case "torch":
            return read_torch(path, options)
        case "npz":
            return read_npz(path, options)
        case "npy":
            return read_npy(path, options)
        case "svec":
            return read_svec(path)
    raise VectorInvalid(
        f"this is not a vector of a kind that is known; known are {'; '.join(FORMATS)}",
        param="file",
        code="unknown_format",
    )
