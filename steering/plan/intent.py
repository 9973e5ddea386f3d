"""Where a request can mean to be steered, other than by the field: found by its keys.

Values are nobody's business: a text, a topic or the name of a tool may say `steering`. Nor are the
keys of what a client defines for itself, such as the schema of a tool. Every other place, known or
not, is a place where a key that means steering is refused.
"""

from collections.abc import Mapping
from typing import Any, Final

from steering.plan.spelling import means_steering

FIELD: Final = "steering"
CARRIERS: Final = frozenset(
    (
        *("extra_body", "vllm_xargs", "extra_args", "extra_headers", "extra_query", "metadata"),
        *("chat_template_kwargs", "sampling_params", "model_kwargs", "optional_params"),
        *("litellm_params", "kwargs"),
    )
)
"""Keys under which SDKs, frameworks and vLLM itself take what they do not know."""
_LONGEST_PATH: Final = 200
_FREE: Final = frozenset(
    (
        *("parameters", "input_schema", "output_schema", "arguments", "schema", "json"),
        *("guided_json", "documents", "variables", "properties", "logit_bias", "structural_tag"),
    )
)
"""Keys of objects whose own keys are the client's, wherever they are."""


def misplaced(body: Any) -> str | None:
    """The path of a key of `body` that means steering and is not the field; None if there is none.
    A null means nothing."""
    waiting: list[tuple[str, Any, bool, bool]] = [("", body, True, False)]
    while waiting:
        path, value, near, in_message = waiting.pop()
        if isinstance(value, list):
            waiting += [
                (f"{path}[{n}]", part, False, in_message)
                for n, part in enumerate(value)
                if isinstance(part, dict | list)
            ]
            continue
        for key, part in value.items() if isinstance(value, dict) else ():
            if part is None or (key == FIELD and not path):
                continue
            if means_steering(key, near=near):
                return join(path, key)
            if isinstance(part, dict | list) and not _free(key, in_message):
                carries = near and key in CARRIERS
                waiting.append((join(path, key), part, carries, in_message or key == "messages"))
    return None


def join(path: str, key: str) -> str:
    """The path of `key` inside the object at `path`, short enough for a message."""
    return (f"{path}.{key}" if path else key)[:_LONGEST_PATH]


def _free(key: str, in_message: bool) -> bool:
    return key in _FREE or (in_message and key == "input")


def misplaced_header(headers: Mapping[str, str]) -> str | None:
    """The name of a header that means steering and is not the header, None if there is none."""
    for name, value in headers.items():
        known = name.lower() in ("x-steering", "steering-receipt")
        if not known and value.strip() and means_steering(name):
            return name
    return None


def misplaced_query(names: list[str]) -> str | None:
    """The first of the `names` in a query that means steering."""
    return next((name for name in names if means_steering(name)), None)
