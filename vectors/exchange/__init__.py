"""Vectors in and out of other tools' files, for the command line; the server loads only ours."""

from vectors.exchange.gguf_out import Exported, save_gguf
from vectors.exchange.load import FORMATS, load

__all__ = ["FORMATS", "Exported", "load", "save_gguf"]
