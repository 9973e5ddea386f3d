"""The body of `POST /v1/steering/vectors/extract`, read and checked."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from vectors.errors import VectorInvalid, shown
from vectors.methods import METHODS, Method
from vectors.methods.per_step import MAX_STEPS
from vectors.names import check_name

Text = StrictStr | list[Any]
"""A plain text, or a chat: a list of messages with role and content."""

SIDES: Final = ("positive", "negative")

MAX_LABEL: Final = 128
"""Longest label, in characters: a job's file names it with each of its bad rows."""

_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_LEAST, _MOST = 1e-6, 1e6
"""Of a setting that is a number, `c`: beyond, a probe is all penalty, or never converges."""


class ExtractRequest(BaseModel):
    """What to make, and of which texts: inline, or as the lines of a JSONL file.

    A line is a pair, {"positive": TEXT, "negative": TEXT}, or one text, {"text": TEXT, "label":
    "positive", "negative" or a style}; either may have a "prompt" of its own. TEXT is a string or a
    list of chat messages.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: StrictStr = Field(description=f"One of {', '.join(METHODS)}.")
    name: StrictStr = Field(description="The vector's name; `style` makes <name>-<style> of each.")
    description: StrictStr = ""
    pairs: list[Any] | None = Field(None, description="[[positive, negative], ...], or lines.")
    positive: list[Any] | None = None
    negative: list[Any] | None = None
    styles: dict[str, list[Any]] | None = Field(None, description="Texts by style.")
    prompt: StrictStr | None = Field(
        None, description="Read plain texts as answers to this, in the chat template; null: raw."
    )
    site: StrictStr | None = Field(None, description="Where to read and add; the method's own.")
    layers: list[StrictInt] | None = Field(None, description="Which blocks; null: all.")
    tokens: StrictStr | None = Field(None, description="last, answer, mean or steps.")
    steps: StrictInt = Field(MAX_STEPS, ge=1, le=512, description="For per_step: greedy steps.")
    settings: dict[str, Any] = Field(default_factory=dict, description="The method's own.")
    unit_dose: float | None = Field(
        None,
        gt=0,
        le=100,
        description="Scale each layer's tensor so that coefficient 1 has this relative dose there: "
        "||v|| / median ||h||. null: as the method makes it.",
    )
    seed: StrictInt = Field(0, description="Of the splits that quality is measured on.")
    created_at: StrictStr | None = Field(
        None, description="Written into the vector; null: the time when it is made."
    )
    licence: StrictStr | None = None
    reproducible: StrictBool = Field(
        False,
        description="One text at a time: the same bytes on the same machine, and slower.",
    )

    @property
    def how(self) -> Method:
        """What the method needs."""
        return METHODS[self.method]

    @property
    def token_rule(self) -> str:
        """Which tokens of a text are read."""
        return self.tokens or self.how.token_rules[0]

    @property
    def capture_site(self) -> str:
        """Where texts are read. `per_step` reads what the output projection gives rather than what
        it gets: the projection is linear, so the mean difference of the one is that of the other,
        folded (and a bias cancels)."""
        return self.site or self.how.sites[0]


class Row(NamedTuple):
    """One text of one side or style, not looked into yet."""

    number: int
    """The line (or place in the list) that it came from, counted from 1."""
    pair: tuple[str, int]
    """Counterparts have the same: which way they were given, and their place in it."""
    label: str
    """Empty if nobody knows."""
    text: Any
    prompt: Any


def read_request(body: bytes | str) -> ExtractRequest:
    """Raises `VectorInvalid` for anything that cannot be done, whatever the texts."""
    try:
        request = ExtractRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        param = ".".join(map(str, first["loc"]))[:128] or "body"
        code = "unknown_field" if first["type"] == "extra_forbidden" else "invalid_body"
        raise VectorInvalid(f"{param}: {first['msg']}", param=param, code=code) from None
    if request.method not in METHODS:
        _refuse("method", f"must be one of {', '.join(METHODS)}, not {shown(request.method)}")
    check_name(request.name)
    how = request.how
    if request.token_rule not in how.token_rules:
        allowed = ", ".join(how.token_rules)
        _refuse("tokens", f"of {request.method} are {allowed}, not {shown(request.tokens)}")
    if request.site is not None and request.site not in how.sites:
        _refuse("site", f"of {request.method} is one of {', '.join(how.sites)}")
    for key, value in request.settings.items():
        allowed_values = how.settings.get(key)
        if allowed_values is None:
            _refuse(f"settings.{key}", f"is not a setting of {request.method}")
        if isinstance(allowed_values, tuple):
            if value not in allowed_values:
                _refuse(f"settings.{key}", f"must be one of {', '.join(allowed_values)}")
        elif not _is_number(value) or not _LEAST <= value <= _MOST:
            _refuse(f"settings.{key}", f"must be a number from {_LEAST:g} to {_MOST:g}")
    return request


def rows_of(request: ExtractRequest, lines: Iterator[tuple[int, Any]] | None) -> Iterator[Row]:
    """The texts, inline or of a file's lines. Raises `VectorInvalid` where it is not clear which
    side a text is on; a text that is wrong in itself is for `examples` to say."""
    given = [key for key in ("pairs", "positive", "negative", "styles") if getattr(request, key)]
    if lines is None and not given:
        _refuse("pairs", "or positive and negative, or styles, or a file must be given")
    if lines is not None and given:
        _refuse(given[0], "cannot be given together with a file")
    if lines is not None:
        yield from _of_lines(lines)
    if request.pairs:
        yield from _of_lines(
            (n, {"positive": pair[0], "negative": pair[1]} if _is_two(pair) else pair)
            for n, pair in enumerate(request.pairs, 1)
        )
    for label in SIDES:
        for n, text in enumerate(getattr(request, label) or (), 1):
            yield Row(n, ("side", n), label, text, None)
    for style, texts in (request.styles or {}).items():
        if not _is_label(style):
            _refuse("styles", f"have names of 1 to {MAX_LABEL} characters")
        for n, text in enumerate(texts, 1):
            yield Row(n, ("style", n), style, text, None)


def check_paired(rows: Sequence[Row]) -> None:
    """Raise `VectorInvalid` unless each row has a counterpart, and it is clear which.

    Lines of one text each are counterparts by their order: the n-th positive and the n-th negative
    one. With a line among them that may be either, nobody knows which are.
    """
    lost = next((row for row in rows if row.label not in SIDES), None)
    if lost and any(row.pair[0] == "text" for row in rows):
        raise VectorInvalid(
            f"row {lost.number} is neither positive nor negative, so that nobody knows which texts "
            "are pairs: mend it, or send lines of {positive, negative}",
            param="pairs",
            code="unpaired",
        )
    positive, negative = ({row.pair for row in rows if row.label == label} for label in SIDES)
    if positive != negative:
        raise VectorInvalid(
            f"there are {len(positive)} positive texts and {len(negative)} negative ones; this "
            "method takes pairs: give a counterpart for each, or use mean_difference",
            param="pairs",
            code="unpaired",
        )


def json_lines(text: bytes) -> Iterator[tuple[int, Any]]:
    """(line number, what it says) of a JSONL file; a line that is no JSON comes as its bytes."""
    for number, line in enumerate(_lines(text), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            # Brackets in brackets without end are a RecursionError.
            except (ValueError, RecursionError):
                yield number, line


def _lines(text: bytes) -> Iterator[bytes]:
    """`text.splitlines()`, one at a time: all at once hold the interpreter for long."""
    start = 0
    for end in _LINE_END.finditer(text):
        yield text[start : end.start()]
        start = end.end()
    yield text[start:]


def is_unicode(text: str) -> bool:
    """Whether `text` can be written anywhere: JSON's escapes can make half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _of_lines(lines: Iterator[tuple[int, Any]]) -> Iterator[Row]:
    texts: Counter[str] = Counter()
    for number, line in lines:
        known = {"positive", "negative", "text", "label", "prompt"}
        if isinstance(line, dict) and set(line) <= known and {"positive", "negative"} <= set(line):
            for label in SIDES:
                yield Row(number, ("pair", number), label, line[label], line.get("prompt"))
        elif (
            isinstance(line, dict)
            and set(line) <= known
            and {"text", "label"} <= set(line)
            and _is_label(line["label"])
        ):
            label = line["label"]
            texts[label] += 1
            yield Row(number, ("text", texts[label]), label, line["text"], line.get("prompt"))
        else:
            # Nobody knows whose it would be: it is named among the bad rows.
            yield Row(number, ("pair", number), "", line, None)


def _is_label(label: Any) -> bool:
    return isinstance(label, str) and 0 < len(label) <= MAX_LABEL and is_unicode(label)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_two(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2


def _refuse(param: str, why: str) -> None:
    raise VectorInvalid(f"{param} {why}", param=param, code="invalid_body")
