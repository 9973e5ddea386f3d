"""docs/rest.md: our own routes, as the server's OpenAPI document describes them."""

import re
from collections.abc import Iterator
from typing import Any, Final

from fastapi import FastAPI

HEAD: Final = """# REST

Written by `python -m tools.docs` from the OpenAPI document, which a server has at `/openapi.json`
with every schema. The routes that generate are OpenAI's; what they take more is [the steering
field](request.md). Behind keys each route needs a scope ([keys](keys.md)). An error is `{"error":
{"message", "type", "param", "code"}}`; `param` names the key. Any route may answer 401 (no key, or
none that is known), 403 (a key that may not do this), 429 (more than the key may ask, or too much
waits), 500, and 503 (the server is about to stop, or full; `Retry-After` says when to try).
"""


_EVERYWHERE: Final = {"401", "403", "422", "429", "500", "503"}
"""Answers that any route may give, described once in `HEAD`; FastAPI's 422 is a 400 here."""


def rest() -> str:
    """The page."""
    document = application().openapi()
    return "\n".join([HEAD, *_sections(document)])


def application() -> FastAPI:
    """An application with our own routes and nothing else."""
    from steersman.server import health
    from steersman.server.activations import routes as activations
    from steersman.server.extraction import api
    from steersman.server.library import inspect, routes
    from steersman.server.patching import routes as patching

    app = FastAPI()
    for made in (routes, inspect, api, activations, patching):
        app.include_router(made.build_router())
    app.include_router(health.router)
    return app


def _sections(document: dict[str, Any]) -> Iterator[str]:
    for path, methods in sorted(document["paths"].items()):
        for method, operation in methods.items():
            yield f"## {method.upper()} {path}\n"
            yield f"{_plain(operation.get('description') or operation.get('summary', ''))}\n"
            rows = [
                (f"`{p['name']}` ({p['in']})", _plain(p.get("description", "")))
                for p in operation.get("parameters", [])
            ]
            rows += list(_body(document, operation))
            if rows:
                yield "| takes | |\n| --- | --- |"
                yield "\n".join(f"| {left} | {right} |" for left, right in rows) + "\n"
            answers = [
                (status, _plain(answer.get("description", "")), _schema(answer))
                for status, answer in sorted(operation["responses"].items())
                if status not in _EVERYWHERE
            ]
            yield "| answers | |\n| --- | --- |"
            for status, words, name in answers:
                yield f"| {status} | {words}{f' `{name}`' if name else ''} |"
            yield ""


def _body(document: dict[str, Any], operation: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content.get("schema", {})
        if "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        for one in [schema, *schema.get("anyOf", []), *schema.get("oneOf", [])]:
            for name, what in one.get("properties", {}).items():
                needed = ", needed" if name in one.get("required", []) else ""
                yield f"`{name}` ({kind}{needed})", _plain(what.get("description", ""))


def _schema(answer: dict[str, Any]) -> str:
    for content in answer.get("content", {}).values():
        name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
        return "" if name == "ErrorEnvelope" else str(name)
    return ""


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;").strip()
