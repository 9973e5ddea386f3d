"""The parts of the OpenAPI document that concern the whole server: its name, keys and common
errors."""

import re
from collections import Counter
from importlib.metadata import version
from typing import Any, Final

from fastapi import FastAPI

from steersman.server.auth.route_scopes import PUBLIC, need_of
from steersman.server.library.examples import add_examples
from steersman.server.library.schemas import ErrorEnvelope

TITLE: Final = "vLLM with Steersman"
_SCHEME: Final = "key"
_GATE: Final = {
    "401": "The key is missing or not known.",
    "403": "The key may not do this, or nobody may.",
    "429": "The key is over its limits, or too many calls wait.",
    "503": "The server is about to stop, or its vector bank is full; Retry-After says when to try.",
}
_BODY: Final = {
    "400": "The request is wrong; `param` names the key.",
    "408": "The body did not arrive in time.",
    "413": "The body is over the limit.",
}
_HEADER: Final = {
    "name": "X-Steering",
    "in": "header",
    "schema": {"type": "string"},
    "description": "The `steering` field in short, as in cheerful=1.5,formal=-0.5, or its JSON.",
}
_RECEIPT: Final = {
    "Steering-Receipt": {
        "schema": {"type": "string"},
        "description": "JSON: what is known of the receipt before the first token.",
    }
}


def describe(app: FastAPI, steered: frozenset[str], *, keys: bool) -> None:
    """Add to the document of `app` the name of the server, its `keys` if it has any, the common
    errors of every route, and the header and receipt of routes that are `steered`."""
    app.title, app.version = TITLE, version("steersman")
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(made(), steered, keys)
        return made()

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(document: dict[str, Any], steered: frozenset[str], keys: bool) -> None:
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    if "ErrorEnvelope" not in schemas:
        schema = ErrorEnvelope.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas["ErrorEnvelope"] = schema
    _name_apart(schemas)
    components["securitySchemes"] = {_SCHEME: {"type": "http", "scheme": "bearer"}}
    add_examples(document)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            _name_parameters(path, operation)
            public = need_of(method.upper(), path) == PUBLIC
            operation["security"] = [] if public else [{_SCHEME: []}, *([] if keys else [{}])]
            said = {} if public else dict(_GATE)
            said |= _BODY if method in ("post", "put", "patch") else {}
            for status, words in said.items():
                operation["responses"].setdefault(status, _error(words))
            if path in steered and method == "post":
                operation.setdefault("parameters", []).append(_HEADER)
                operation["responses"]["200"]["headers"] = _RECEIPT


def _name_apart(schemas: dict[str, Any]) -> None:
    """Give schemas that have one title their own names for titles: generators of clients make
    classes of titles, and leave out all routes that need two of one name."""
    named = {name: _as_class(schema.get("title", name)) for name, schema in schemas.items()}
    times = Counter(named.values())
    for name, schema in schemas.items():
        if times[named[name]] > 1:
            schema["title"] = name


def _as_class(title: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", title).lower()


def _name_parameters(path: str, operation: dict[str, Any]) -> None:
    """Describe the parts of `path` that vLLM's own route does not."""
    known = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
    for name in re.findall(r"\{([^}]+)\}", path):
        if name not in known:
            part = {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            operation.setdefault("parameters", []).append(part)


def _error(words: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/ErrorEnvelope"}
    return {"description": words, "content": {"application/json": {"schema": schema}}}
