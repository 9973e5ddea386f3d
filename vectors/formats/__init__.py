"""Vectors in and out of other tools' files, for the command line; the server loads only ours.

load          a file or folder in any known format
kinds         what a file is, by its content
readers/      one module a format
imported      what a reader returns
conventions   where each tool adds the vector that its file numbers N
placement     tensors to hook points, by names or by rows of a stack
build         a `SteeringVector` out of it, with a note of where it came from
card          base model and licence out of a Hugging Face folder
dose          how strong a vector is beside the stream
gguf_export   our vectors as GGUF control vectors
"""

from steersman.vectors.formats.gguf_export import Exported, save_gguf
from steersman.vectors.formats.load import FORMATS, load

__all__ = ["FORMATS", "Exported", "load", "save_gguf"]
