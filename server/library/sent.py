"""A vector in a request: its file in base64, read within limits."""

import base64
import binascii
from typing import Final

from steersman.vectors.errors import SteersmanError, VectorInvalid, VectorTooLarge
from steersman.vectors.library.entry import Entry
from steersman.vectors.library.sent import SentVectors

_REMEDY: Final = "send the base64 of a safetensors file with tensors named <site>.<layer>"


class Inline:
    """Reads vectors that requests bring with them, each a file of at most `most_bytes`."""

    def __init__(self, kept: SentVectors, most_bytes: int) -> None:
        self._kept = kept
        self._most_bytes = most_bytes

    def read(self, text: str, param: str) -> Entry:
        """The vector whose file is `text` in base64, once it is where workers find it. Parses the
        file, so do not call it on the event loop. `param`: the key that has it, which errors name.
        Raises `VectorTooLarge`, `VectorInvalid` and `LibraryError`."""
        # 3 bytes in 4 characters, the last of which may be padding.
        if len(text) // 4 * 3 - 2 > self._most_bytes:
            raise VectorTooLarge(
                f"{param} is larger than {self._most_bytes} bytes, the most that a request may "
                "bring (--max-inline-bytes); upload it to /v1/steering/vectors and name it",
                param=param,
                code="inline_too_large",
            )
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise VectorInvalid(
                f"{param} is not base64; {_REMEDY}", param=param, code="invalid_base64"
            ) from None
        try:
            return self._kept.keep(data)
        except SteersmanError as error:
            if isinstance(error, VectorInvalid):
                where = f", at {error.param}" if error.param else ""
                error.message = f"{param}{where}: {error.message}; {_REMEDY}"
                error.param = param
            raise
