"""Reads and writes vectors in other tools' files, for the command line; the server loads only ours.

load          a file or folder in any known format
kinds         the format of a file, by its content
readers/      one module a format
imported      what a reader returns
conventions   where each tool adds the vector that its file numbers N
placement     tensors to hook points, by names or by rows of a stack
build         makes a `SteeringVector`, with a note of its origin
card          base model and licence from a Hugging Face folder
dose          how strong a vector is, relative to the stream
gguf_export   our vectors as GGUF control vectors
sae           chosen features of a sparse autoencoder
"""

from steersman.vectors.formats.gguf_export import Exported, save_gguf
from steersman.vectors.formats.load import FORMATS, load
from steersman.vectors.formats.sae import feature_blocks, load_features

__all__ = ["FORMATS", "Exported", "feature_blocks", "load", "load_features", "save_gguf"]
