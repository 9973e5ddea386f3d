"""Vectors in and out of other tools' files, for the command line; the server loads only ours."""

from steersman.vectors.formats.gguf_export import Exported, save_gguf
from steersman.vectors.formats.load import FORMATS, load

__all__ = ["FORMATS", "Exported", "load", "save_gguf"]
