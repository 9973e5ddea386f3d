"""Bounds what a request demands of its answer's text, because vLLM makes grammars and tokens of
that on the event loop."""

from typing import Any, Final

from steersman.server.middleware.body import BodyInvalid, places

MOST_CHARACTERS: Final = 128 << 10
MOST_WORDS: Final = 1024
_TEXTS: Final = ("structured_outputs", "response_format", "text", "bad_words")
"""Fields whose strings become grammars or tokens: objects, and a list of words."""


def check_constraints(body: Any) -> None:
    """Raise `BodyInvalid` for a parsed body that demands more of its answer than the event loop has
    time for. A body that is not an object demands nothing."""
    if not isinstance(body, dict):
        return
    nested = body.get("sampling_params")
    _check(body, "")
    if isinstance(nested, dict):
        _check(nested, "sampling_params.")


def check_items(path: str, body: Any, most: int) -> None:
    """Raise `BodyInvalid` for the parsed body of a request to `path` with more than `most` items in
    a response's `input` or a batch's `messages`, or more than a quarter of that in a response's
    `tools`.

    vLLM compares an item of a response with some forty types, which takes 0.1 ms, and 0.3 ms for a
    tool. It makes a request of each conversation of a batch.
    """
    limits: tuple[tuple[str, int], ...] = ()
    if path.startswith("/v1/responses"):
        limits = ("input", most), ("tools", max(1, most // 4))
    elif path == "/v1/chat/completions/batch":
        limits = (("messages", most),)
    for name, limit in limits:
        given = body.get(name) if isinstance(body, dict) else None
        if isinstance(given, list) and len(given) > limit:
            raise BodyInvalid(
                f"{name} has {len(given)} items, at most {limit} are taken; send less, or raise "
                "the limit with --max-input-items",
                param=name,
                code="body_too_complex",
            )


def _check(holder: dict[str, Any], where: str) -> None:
    outputs = holder.get("structured_outputs")
    for name, words in (
        ("bad_words", holder.get("bad_words")),
        ("stop_token_ids", holder.get("stop_token_ids")),
        ("structured_outputs.choice", outputs.get("choice") if isinstance(outputs, dict) else None),
    ):
        if isinstance(words, list) and len(words) > MOST_WORDS:
            raise _too_much(f"{where}{name}", f"{len(words)} entries, at most {MOST_WORDS}")
    for name in _TEXTS:
        said = holder.get(name)
        whole = list if name == "bad_words" else dict
        if isinstance(said, whole) and _characters(said) > MOST_CHARACTERS:
            raise _too_much(f"{where}{name}", f"over {MOST_CHARACTERS} characters, as many as")


def _characters(value: Any) -> int:
    """Total length of all strings and keys in `value`."""
    found = 0
    for _, part in places(value):
        if isinstance(part, str):
            found += len(part)
        elif isinstance(part, dict):
            found += sum(map(len, part))
    return found


def _too_much(where: str, what: str) -> BodyInvalid:
    return BodyInvalid(
        f"{where} has {what} are taken, whatever the server's options; send less",
        param=where,
        code="body_too_complex",
    )
