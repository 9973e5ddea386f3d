"""The errors of every room.

    SteersmanError
    ├── VectorInvalid    the file, a field or a name is not what the format allows
    ├── VectorNotFound   no such name or version
    ├── VectorTooLarge   more bytes than are accepted
    ├── VectorConflict   the name is taken by other content
    ├── PresetNotFound   no such preset
    ├── PresetConflict   the name stands for something else, or a preset is in the way
    ├── PackageMissing   a Python package that this needs is not installed
    ├── ActivationsInvalid  a method can make no direction of these activations
    ├── DemoError        the demo model or a demo vector cannot be made
    └── LibraryError     the library's directory cannot be read or written
        ├── LibraryFull      the disk has no space left
        ├── LibraryReadOnly  the disk can be read and not written
        └── SentFull         vectors that requests have sent take all of their space

`steersman.server.error_response` is the one place that maps them to HTTP.
"""

from collections.abc import Iterable
from typing import ClassVar


class SteersmanError(Exception):
    """Base of all. `message`: what is wrong, and what to do about it.

    `param` is the key, tensor or part at fault; `code` is a machine-readable word. Both texts are
    valid Unicode, whatever keys the client sent: half of a surrogate pair cannot be encoded.
    """

    default_code: ClassVar[str] = "steersman_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        message = _sendable(message)
        super().__init__(message)
        self.message = message
        self.param = None if param is None else _sendable(param)
        self.code = code or self.default_code


class VectorInvalid(SteersmanError):
    """A vector, or a value given for one, breaks a rule of the format."""

    default_code = "invalid_vector"


class VectorNotFound(SteersmanError):
    """There is no vector with this id."""

    default_code = "vector_not_found"


class VectorTooLarge(SteersmanError):
    """An upload is over the limit."""

    default_code = "upload_too_large"


class VectorConflict(SteersmanError):
    """The name is in use for other content."""

    default_code = "vector_exists"


class PresetNotFound(SteersmanError):
    """There is no preset of this name."""

    default_code = "preset_not_found"


class PresetConflict(SteersmanError):
    """The name is in use for another preset, or a preset is in the way."""

    default_code = "preset_exists"


class PackageMissing(SteersmanError):
    """A Python package that only some of the work needs is not installed. The message names it."""

    default_code = "package_missing"


class ActivationsInvalid(SteersmanError, ValueError):
    """A method can make no direction of these activations; the message has the reason.

    `samples` are the 0-based samples at fault and `layers` the places at fault along the layers'
    axis: leave them out and call again. Codes: `bad_shape`, `wrong_dtype`, `not_finite`,
    `too_few_rows`, `unpaired`, `identical_sides`, `not_converged`, `bad_setting`.
    """

    default_code = "invalid_activations"

    def __init__(
        self,
        message: str,
        *,
        code: str,
        param: str | None = None,
        samples: Iterable[int] = (),
        layers: Iterable[int] = (),
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.samples = tuple(samples)
        self.layers = tuple(layers)


class DemoError(SteersmanError):
    """The demo model or a demo vector cannot be made; the message has the remedy."""

    default_code = "demo_unavailable"


class LibraryError(SteersmanError):
    """The disk refused. The library is unchanged."""

    default_code = "library_unavailable"


class LibraryFull(LibraryError):
    """The disk has no space left."""

    default_code = "library_full"


class LibraryReadOnly(LibraryError):
    """The disk can be read and not written."""

    default_code = "library_read_only"


class SentFull(LibraryError):
    """Vectors that requests have sent take all of the space that there is for them; try again in
    `retry_after` seconds."""

    default_code = "inline_cache_full"
    retry_after = 30


def _sendable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def shown(value: object, limit: int = 80) -> str:
    """`value` in the form for messages: quoted, and short, whatever the client sent."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
