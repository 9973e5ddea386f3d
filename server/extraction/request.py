"""The body of `POST /v1/steering/vectors/extract`, read and checked."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError
from pydantic_core import from_json

from steersman.server.extraction.bodies import VALUES_A_ROW, count_values, lines_of, too_many_values
from steersman.vectors.errors import VectorInvalid, shown
from steersman.vectors.library.names import check_name
from steersman.vectors.methods import METHODS, Method
from steersman.vectors.methods.activations import MIN_SAMPLES
from steersman.vectors.methods.per_step import MAX_STEPS

Text = StrictStr | list[Any]
"""A plain text, or a chat: a list of messages with role and content."""

SIDES: Final = ("positive", "negative")

MAX_LABEL: Final = 128
"""Longest label, in characters: a job's file names it with each of its bad rows."""

MOST_ROWS: Final = 4096
"""Texts that a body is sized for where nobody says otherwise."""

_MOST_LAYERS: Final = 4096

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
    tokens: StrictStr | None = Field(
        None,
        description="last, answer, mean or steps. null: the method's own; of mean_difference, repe "
        "and probe that is mean, and last where a text is a chat that ends with a question.",
    )
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
        """Which tokens of a text are read; `settled` has put in what goes by the texts."""
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


def read_request(body: bytes | str, most_rows: int = MOST_ROWS) -> ExtractRequest:
    """Raises `VectorInvalid` for anything that cannot be done, whatever the texts. Takes long of a
    large body: for a thread."""
    text = body.encode(errors="surrogatepass") if isinstance(body, str) else body
    count_values(text, _most_values(most_rows), param="body")
    try:
        data = from_json(text)
    except ValueError as error:
        why = shown(str(error), 200)
        raise VectorInvalid(
            f"body: is not JSON: {why}", param="body", code="invalid_body"
        ) from None
    _check_shape(data)
    try:
        request = ExtractRequest.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        param = ".".join(map(str, first["loc"]))[:128] or "body"
        code = "unknown_field" if first["type"] == "extra_forbidden" else "invalid_body"
        raise VectorInvalid(f"{param}: {first['msg']}", param=param, code=code) from None
    if request.method not in METHODS:
        _refuse("method", f"must be one of {', '.join(METHODS)}, not {shown(request.method)}")
    check_name(request.name)
    how = request.how
    if how.missing is not None:
        raise VectorInvalid(
            f"{request.method} needs {how.missing}, which is not installed beside this server: "
            f"pip install {how.missing} and start it again, or use mean_difference or caa",
            param="method",
            code="package_missing",
        )
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


def _check_shape(data: Any) -> None:
    """What pydantic would name an error of each: one is enough. Raises `VectorInvalid`."""
    if not isinstance(data, dict):
        _refuse("body", "must be a JSON object")
    for key in data:
        if key not in ExtractRequest.model_fields:
            name = shown(key)
            raise VectorInvalid(
                f"{name}: there is no such field", param=key[:128], code="unknown_field"
            )
    if isinstance(data.get("layers"), list) and len(data["layers"]) > _MOST_LAYERS:
        _refuse("layers", f"may be at most {_MOST_LAYERS}")
    styles = data.get("styles")
    if isinstance(styles, dict) and not all(isinstance(texts, list) for texts in styles.values()):
        _refuse("styles", "must be lists of texts, one of each style")


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


def settled(request: ExtractRequest, rows: Sequence[Row]) -> ExtractRequest:
    """With the token rule that these texts get if the request names none.

    A sentence's last token is mostly its full stop: where no paper says otherwise, the mean over
    all is read. A chat that ends with a question is read where its answer would begin.
    """
    if request.tokens is not None:
        return request
    rule = request.how.token_rules[0]
    if rule == "mean" and any(_asks(row.text) for row in rows):
        rule = "last"
    return request.model_copy(update={"tokens": rule})


def check_sides(request: ExtractRequest, rows: Sequence[Row]) -> None:
    """Raise `VectorInvalid` where the texts alone show that nothing can come of them: too few on a
    side, or the same ones on both. Bad ones among enough others are the job's to name."""
    usable: dict[str, Counter[str]] = {}
    bad = {row.pair for row in rows if not _may_be_text(row.text)} if request.how.paired else set()
    for row in rows:
        if row.label and _may_be_text(row.text) and row.pair not in bad:
            found = usable.setdefault(row.label, Counter())
            found[json.dumps([row.prompt, row.text])] += 1
    if request.how.inputs == "styles":
        if len(usable) < 2:
            raise VectorInvalid(
                f"there are texts of {len(usable)} styles: a style is measured against at least "
                "one other",
                param="styles",
                code="too_few_rows",
            )
    else:
        for side in SIDES:
            usable.setdefault(side, Counter())
    for label, texts in usable.items():
        if texts.total() < MIN_SAMPLES:
            raise VectorInvalid(
                f"{shown(label)} has {texts.total()} texts that can be read, and at least "
                f"{MIN_SAMPLES} are needed",
                param=label if label in SIDES else "styles",
                code="too_few_rows",
            )
    first, *others = usable.values()
    if all(other == first for other in others):
        raise VectorInvalid(
            "the texts are the same on all sides: there is no difference to find",
            param="pairs" if request.how.inputs != "styles" else "styles",
            code="identical_sides",
        )


def needs_template(request: ExtractRequest, rows: Sequence[Row]) -> bool:
    """Whether any text goes through the chat template."""
    return any(
        isinstance(row.text, list)
        or (isinstance(row.text, str) and (row.prompt or request.prompt) is not None)
        for row in rows
    )


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


def json_lines(text: bytes, most_rows: int = MOST_ROWS) -> Iterator[tuple[int, Any]]:
    """(line number, what it says) of a JSONL file. A line that is not JSON, or by itself holds more
    than all texts may, comes as its bytes. Raises `VectorInvalid` where all lines together do."""
    most = left = _most_values(most_rows)
    for number, line in lines_of(text):
        try:
            left -= count_values(line, most, param="file")
            said = json.loads(line)
        # Brackets in brackets without end are a RecursionError.
        except (ValueError, RecursionError, VectorInvalid):
            said = line
        if left < 0:
            raise too_many_values(most, "file")
        yield number, said


def _most_values(rows: int) -> int:
    return VALUES_A_ROW * (rows + 16)


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


def _may_be_text(text: Any) -> bool:
    """Whether it looks like a text: neither empty nor something else."""
    return bool(text.strip()) if isinstance(text, str) else isinstance(text, list) and bool(text)


def _asks(text: Any) -> bool:
    """Whether it is a chat that waits for an answer."""
    last = text[-1] if isinstance(text, list) and text else None
    return isinstance(last, dict) and (last.get("role") != "assistant" or len(text) == 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_two(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2


def _refuse(param: str, why: str) -> None:
    raise VectorInvalid(f"{param} {why}", param=param, code="invalid_body")
