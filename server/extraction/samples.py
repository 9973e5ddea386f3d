"""The texts of an extraction request, inline or in a file, and the side or style of each.

Parsers hold the interpreter's lock while they build what they read: for 60 MiB of empty lists that
is a minute, in whatever thread. So the values are counted first, in small pieces, up to a bound.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pydantic_core import from_json

from steersman.vectors.errors import VectorInvalid, shown
from steersman.vectors.methods.activations import MIN_SAMPLES

if TYPE_CHECKING:
    from steersman.server.extraction.request import ExtractRequest

SIDES: Final = ("positive", "negative")

MAX_LABEL: Final = 128
"""Longest label, in characters: a job's file names it with each of its bad rows."""

MOST_SAMPLES: Final = 4096
"""Texts that a body is sized for where nobody says otherwise."""

VALUES_A_SAMPLE: Final = 64
"""Values (strings, numbers, lists, objects) that a text may consist of, on average over as many
texts as are allowed: a chat of 20 messages has about so many."""
_BITE: Final = 1 << 18
_MARK: Final = re.compile(rb'[\[{,"]')
_INSIDE: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_LINE: Final = re.compile(rb"[^ \t\r\n][^\n]*")


class Sample(NamedTuple):
    """One text of one side or style, not checked yet."""

    number: int
    """The line (or place in the list) that it came from, counted from 1."""
    pair: tuple[str, int]
    """Counterparts have the same: which way they were given, and their place in it."""
    label: str
    """Empty if nobody knows."""
    text: Any
    prompt: Any


def samples_of(
    request: "ExtractRequest", lines: Iterator[tuple[int, Any]] | None
) -> Iterator[Sample]:
    """The texts, inline or of a file's lines. Raises `VectorInvalid` if the side of a text is not
    clear. Faults in the text itself are found in `examples`."""
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
            yield Sample(n, ("side", n), label, text, None)
    for style, texts in (request.styles or {}).items():
        if not _is_label(style):
            _refuse("styles", f"have names of 1 to {MAX_LABEL} characters")
        for n, text in enumerate(texts, 1):
            yield Sample(n, ("style", n), style, text, None)


def settled(request: "ExtractRequest", samples: Sequence[Sample]) -> "ExtractRequest":
    """`request` with a token rule: its own, or the one for these texts.

    A sentence's last token is mostly its full stop, so where no paper says otherwise the mean over
    all tokens is read. A chat that ends with a question is read where its answer would begin.
    """
    if request.tokens is not None:
        return request
    rule = request.how.token_rules[0]
    if rule == "mean" and any(_asks(sample.text) for sample in samples):
        rule = "last"
    return request.model_copy(update={"tokens": rule})


def check_sides(request: "ExtractRequest", samples: Sequence[Sample]) -> None:
    """Raise `VectorInvalid` if no vector can come of these texts: too few on a side, or the same
    texts on both. A few bad texts are not an error here: the job lists them."""
    usable: dict[str, Counter[str]] = {}
    bad = (
        {sample.pair for sample in samples if not _may_be_text(sample.text)}
        if request.how.paired
        else set()
    )
    for sample in samples:
        if sample.label and _may_be_text(sample.text) and sample.pair not in bad:
            found = usable.setdefault(sample.label, Counter())
            found[json.dumps([sample.prompt, sample.text])] += 1
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


def needs_template(request: "ExtractRequest", samples: Sequence[Sample]) -> bool:
    """Whether any text needs the chat template."""
    return any(
        isinstance(sample.text, list)
        or (isinstance(sample.text, str) and (sample.prompt or request.prompt) is not None)
        for sample in samples
    )


def check_paired(samples: Sequence[Sample]) -> None:
    """Raise `VectorInvalid` unless each text has a counterpart, and it is clear which.

    Lines with one text each are paired by order: the n-th positive with the n-th negative. A line
    whose side is unknown makes that order unclear.
    """
    lost = next((sample for sample in samples if sample.label not in SIDES), None)
    if lost and any(sample.pair[0] == "text" for sample in samples):
        raise VectorInvalid(
            f"row {lost.number} is neither positive nor negative, so it is not clear which texts "
            "are pairs: fix the row, or send lines of {positive, negative}",
            param="pairs",
            code="unpaired",
        )
    positive, negative = (
        {sample.pair for sample in samples if sample.label == label} for label in SIDES
    )
    if positive != negative:
        raise VectorInvalid(
            f"there are {len(positive)} positive texts and {len(negative)} negative ones; this "
            "method takes pairs: give a counterpart for each, or use mean_difference",
            param="pairs",
            code="unpaired",
        )


def json_lines(text: bytes, most_samples: int = MOST_SAMPLES) -> Iterator[tuple[int, Any]]:
    """(line number, value) for each line of a JSONL file. A line that is not JSON, or is larger
    than all texts may be together, is returned as bytes. Raises `VectorInvalid` if all lines
    together are too large."""
    most = left = most_values(most_samples)
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


def is_unicode(text: str) -> bool:
    """Whether `text` can be encoded: JSON's escapes can make half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _of_lines(lines: Iterator[tuple[int, Any]]) -> Iterator[Sample]:
    texts: Counter[str] = Counter()
    for number, line in lines:
        known = {"positive", "negative", "text", "label", "prompt"}
        if isinstance(line, dict) and set(line) <= known and {"positive", "negative"} <= set(line):
            for label in SIDES:
                yield Sample(number, ("pair", number), label, line[label], line.get("prompt"))
        elif (
            isinstance(line, dict)
            and set(line) <= known
            and {"text", "label"} <= set(line)
            and _is_label(line["label"])
        ):
            label = line["label"]
            texts[label] += 1
            yield Sample(number, ("text", texts[label]), label, line["text"], line.get("prompt"))
        else:
            # Nobody knows whose it would be: it is named among the bad rows.
            yield Sample(number, ("pair", number), "", line, None)


def _is_label(label: Any) -> bool:
    return isinstance(label, str) and 0 < len(label) <= MAX_LABEL and is_unicode(label)


def _may_be_text(text: Any) -> bool:
    """Whether the value can be a text: it is not empty and of the right type."""
    return bool(text.strip()) if isinstance(text, str) else isinstance(text, list) and bool(text)


def _asks(text: Any) -> bool:
    """Whether it is a chat that ends with a question."""
    last = text[-1] if isinstance(text, list) and text else None
    return isinstance(last, dict) and (last.get("role") != "assistant" or len(text) == 1)


def _is_two(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2


def most_values(samples: int) -> int:
    """The most JSON values that a body with this number of `samples` may have."""
    return VALUES_A_SAMPLE * (samples + 16)


def read_body(body: bytes, samples: int) -> Any:
    """The JSON in the body of a request with at most this number of `samples`. Raises
    `VectorInvalid`."""
    count_values(body, most_values(samples), param="body")
    try:
        return from_json(body)
    except ValueError as error:
        why = shown(str(error), 200)
        raise VectorInvalid(
            f"the body is not JSON: {why}", param="body", code="invalid_body"
        ) from None


def count_values(text: bytes, most: int, *, param: str) -> int:
    """About how many JSON values `text` has: opening brackets and commas outside strings. Raises
    `VectorInvalid` above `most`. For text that is not JSON the number means nothing."""
    found, at = 0, 0
    while at < len(text):
        mark = _MARK.search(text, at, at + _BITE)
        if mark is None:
            at += _BITE
        elif mark[0] == b'"':
            at = _end_of_string(text, mark.end())
        else:
            at = mark.end()
            found += 1
            if found > most:
                raise too_many_values(most, param)
    return found


def too_many_values(most: int, param: str) -> VectorInvalid:
    """The error for a body with more than `most` values."""
    return VectorInvalid(
        f"the body holds more than {most} values, far more than the texts that are allowed "
        "consist of (--max-extract-rows): send fewer or shorter chats",
        param=param,
        code="too_many_values",
    )


def lines_of(text: bytes) -> Iterator[tuple[int, bytes]]:
    """(line number, line) of each line that is not blank."""
    number, at = 1, 0
    for line in _LINE.finditer(text):
        number += text.count(b"\n", at, line.start())
        at = line.start()
        yield number, line[0]


def _end_of_string(text: bytes, at: int) -> int:
    """The index after the closing quote of the string whose text begins at `at`."""
    while at < len(text):
        found = _INSIDE.match(text, at, at + _BITE)
        end = at if found is None else found.end()
        if text[end : end + 1] == b'"':
            return end + 1
        # The bite's end, or a backslash that is its last byte and stands before what it escapes.
        at = end + 2 if text[end : end + 1] == b"\\" else max(end, at + 1)
    return len(text)


def _refuse(param: str, why: str) -> None:
    raise VectorInvalid(f"{param} {why}", param=param, code="invalid_body")
