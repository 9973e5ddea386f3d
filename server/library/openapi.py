"""The OpenAPI description of bodies and queries that the vector routes read by hand."""

from typing import Any, Final, cast

from steersman.server.library.schemas import ErrorEnvelope, VectorPatch

MAX_PAGE: Final = 1000
PAGE: Final = 100


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documentation of the errors of a route: `statuses`, and those of middleware (401, 403, 429,
    and 503 of a server that is about to stop)."""
    return {status: {"model": ErrorEnvelope} for status in {401, 403, 429, 503, *statuses}}


def self_contained(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` without references: its `$defs` could not be found inside an OpenAPI document."""
    parts = schema.pop("$defs", {})

    def inline(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return inline(parts[value["$ref"].rpartition("/")[2]])
            return {key: inline(part) for key, part in value.items()}
        return [inline(part) for part in value] if isinstance(value, list) else value

    return cast("dict[str, Any]", inline(schema))


FILE_TYPE: Final = "application/octet-stream"
LIST_PARAMETERS: Final = [
    {
        "name": "after",
        "in": "query",
        "schema": {"type": "string"},
        "description": "An id; the page begins after it.",
    },
    {
        "name": "limit",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": PAGE},
    },
    {
        "name": "fits",
        "in": "query",
        "schema": {"type": "boolean"},
        "description": "Only vectors that the served model can (true) or cannot (false) be steered "
        "with; a library may hold those of several models.",
    },
]
FORCE: Final = {
    "name": "force",
    "in": "query",
    "schema": {"type": "boolean"},
    "description": "Delete it although a preset names it, which answers 404 from then on.",
}
UPLOAD_BODY: Final = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {
                        "type": "string",
                        "format": "binary",
                        "description": "A safetensors file of tensors named <site>.<layer>; also "
                        "a GGUF control vector, and safetensors with other tools' names.",
                    },
                    "name": {
                        "type": "string",
                        "description": "Its name; default: the one in its metadata, or of another "
                        "tool's file the file's own.",
                    },
                },
            }
        }
    },
}
PATCH_BODY: Final = {
    "required": True,
    "content": {"application/json": {"schema": self_contained(VectorPatch.model_json_schema())}},
}
