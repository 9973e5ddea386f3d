"""Reads an upload: a multipart form, spooled to disk, its bytes counted."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, Final, NamedTuple, cast

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from steersman.server.middleware.body_limit import too_large
from steersman.vectors.errors import VectorInvalid, shown

FORM_OVERHEAD: Final = 64 << 10
"""What boundaries, part headers and the name may add to the file itself."""


class Upload(NamedTuple):
    """A file, in memory or on disk, and the name that was sent with it. It is removed when the
    request ends."""

    file: BinaryIO
    name: str | None
    filename: str = ""
    """The file's own name, as the client says it."""


@contextlib.asynccontextmanager
async def read_upload(request: Request, max_bytes: int) -> AsyncIterator[Upload]:
    """Read the form of `request`: one `file` of at most `max_bytes`, and optionally a `name`.

    Raises `VectorInvalid` for any other form, and `VectorTooLarge`.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise VectorInvalid(
            "send the vector as multipart/form-data with a part called file, as in "
            "curl -F file=@vector.safetensors",
            param="file",
            code="not_multipart",
        )
    parser = MultiPartParser(
        request.headers,
        _counted(request, max_bytes + FORM_OVERHEAD, max_bytes),
        max_files=1,
        max_fields=16,
        max_part_size=4096,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise VectorInvalid(
            f"the form cannot be read: {error.message}", param="file", code="bad_form"
        ) from None
    except ClientDisconnect:
        raise VectorInvalid("the upload was cut off", param="file", code="truncated") from None
    try:
        yield _checked(form, max_bytes)
    finally:
        await form.close()


def _checked(form: FormData, max_bytes: int) -> Upload:
    for key in form:
        if key not in ("file", "name"):
            raise VectorInvalid(
                f"{shown(key)} is not a part of an upload; send file and, if you like, name",
                param=key[:128],
                code="unknown_field",
            )
        if len(form.getlist(key)) > 1:
            raise VectorInvalid(f"{key} was sent twice", param=key, code="bad_form")
    file, name = form.get("file"), form.get("name")
    if not isinstance(file, UploadFile):
        raise VectorInvalid(
            "the form has no file; send the vector as a part called file with a filename",
            param="file",
            code="file_missing",
        )
    if isinstance(name, UploadFile):
        raise VectorInvalid("name must be text, not a file", param="name", code="bad_form")
    if file.size is not None and file.size > max_bytes:
        raise too_large(max_bytes)
    spooled = cast("BinaryIO", cast("SpooledTemporaryFile[bytes]", file.file))
    return Upload(spooled, name, file.filename or "")


async def _counted(request: Request, at_most: int, max_bytes: int) -> AsyncGenerator[bytes, None]:
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > at_most:
            raise too_large(max_bytes)
        yield chunk
