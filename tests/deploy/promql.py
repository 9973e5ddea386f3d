"""Which metrics and labels an expression of PromQL reads.

Debian's promtool says whether an expression is right, and nothing of what is in it; hence a
tokenizer and one pass over the tokens. `tests/deploy/test_metric_names.py` has the cases.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
      | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`[^`]*`)
      | (?P<number>0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+|[a-z]\w*)?)
      | (?P<word>[a-zA-Z_:][\w:]*)
      | (?P<sign>=~|!~|==|!=|<=|>=|[-+*/%^()\[\]{},=<>@])""",
    re.VERBOSE,
)
_LABEL_LISTS = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_KEYWORDS = frozenset({"and", "or", "unless", "bool", "offset", "atan2", "inf", "nan"})


@dataclass(frozen=True)
class Matcher:
    label: str
    sign: str
    value: str


@dataclass(frozen=True)
class Selector:
    """A metric as an expression names it."""

    name: str
    matchers: tuple[Matcher, ...] = ()


@dataclass(frozen=True)
class Reads:
    """What an expression reads: metrics, and the labels that it groups and joins by."""

    selectors: tuple[Selector, ...]
    labels: frozenset[str]


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str


def reads(expression: str) -> Reads:
    """Raises ValueError for what is no PromQL, or names its metric by a pattern."""
    tokens = list(_tokens(expression))
    selectors: list[Selector] = []
    labels: set[str] = set()
    at = 0
    while at < len(tokens):
        token, after = tokens[at], tokens[at + 1].text if at + 1 < len(tokens) else ""
        word = token.text.lower() if token.kind == "word" else ""
        if word in _LABEL_LISTS:
            end = _closing(tokens, at + 1, ")") if after == "(" else at
            labels |= {t.text for t in tokens[at + 2 : end] if t.kind == "word"}
            at = end
        elif word in _KEYWORDS or (word and (after == "(" or after.lower() in ("by", "without"))):
            pass  # a function or an aggregation
        elif token.text == "[":
            at = _closing(tokens, at, "]")
        elif word or token.text == "{":
            name = token.text if word else ""
            start = at + 1 if word else at
            matchers: tuple[Matcher, ...] = ()
            if start < len(tokens) and tokens[start].text == "{":
                at = _closing(tokens, start, "}")
                matchers = tuple(_matchers(tokens[start + 1 : at]))
            selectors.append(_named(name, matchers))
        at += 1
    return Reads(tuple(selectors), frozenset(labels))


def _tokens(expression: str) -> Iterator[_Token]:
    at = 0
    while at < len(expression):
        found = _TOKEN.match(expression, at)
        if found is None:
            raise ValueError(f"no PromQL at {expression[at : at + 20]!r}")
        at = found.end()
        if found.lastgroup != "space":
            yield _Token(str(found.lastgroup), found.group())


def _closing(tokens: list[_Token], start: int, sign: str) -> int:
    """Where the next `sign` is; what is asked about does not nest."""
    for at in range(start, len(tokens)):
        if tokens[at].text == sign:
            return at
    raise ValueError(f"no {sign} after {tokens[start].text}")


def _matchers(tokens: list[_Token]) -> Iterator[Matcher]:
    rest = [t for t in tokens if t.text != ","]
    if len(rest) % 3:
        raise ValueError(f"no matchers: {' '.join(t.text for t in tokens)}")
    for label, sign, value in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        if label.kind != "word" or value.kind != "string":
            raise ValueError(f"no matcher: {label.text}{sign.text}{value.text}")
        yield Matcher(label.text, sign.text, value.text[1:-1])


def _named(name: str, matchers: tuple[Matcher, ...]) -> Selector:
    if not name:
        names = [m.value for m in matchers if m.label == "__name__" and m.sign == "="]
        if len(names) != 1:
            raise ValueError(f"no name among {matchers}")
        name = names[0]
    return Selector(name, tuple(m for m in matchers if m.label != "__name__"))
