"""Where a request means to be steered other than by the field, and the spellings that count.

vLLM, SDKs and other plugins ignore keys that they do not know, so a request with a key `steer` or
`Steering` would be answered unsteered with a 200. The server's middleware and the engine's front
end use this one list of spellings.

Only keys count: a text, a topic or the name of a tool may be `steering`. Where vLLM reads objects
that a client defines, such as the schema of a tool, their keys belong to the client and are not
searched. At every other place, known or not, a key that means steering is refused. A string under a
key that SDKs use for unknown fields is searched as JSON.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from steersman.steering.plan.errors import PlanInvalid

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
MOST_CLOSE: Final = 500
"""Most keys of one body that are compared letter by letter with ours, 0.1 ms each."""
MOST_OPENED: Final = 64 << 10
"""Characters of the strings of one body that are read as JSON, 1 ms for 1,000."""
_FREE: Final = re.compile(
    r"(tools\[\]\.function|tools\[\]|functions\[\]|input\[\]\.tools\[\])\.(parameters|(in|out)put_schema)"
    r"|response_format\.((json_schema|structures\[\])\.)?schema|text\.format\.schema"
    r"|(sampling_params\.)?(structured_outputs\.(json|structural_tag)|guided_json|structural_tag)"
    r"|prompt\.variables|documents|(sampling_params\.)?logit_bias"
    r"|messages\[\]\.(tool_calls\[\]\.function|function_call)\.arguments"
)
"""Paths of objects whose own keys are the client's; a list's place is `[]`."""
_TOOL_USES: Final = ("tool_use", "server_tool_use", "mcp_tool_use")


class _At(NamedTuple):
    """One object or list of a body that is still to be searched."""

    path: str
    kind: str
    """`path` with every place in a list as `[]`, lists of lists as one."""
    value: Any
    near: bool
    """Whether keys with wrong letters count."""
    carried: bool
    """Whether it is under one of the `CARRIERS`, so that strings may be JSON."""


class _Care:
    """How much of one body may still be searched, because the search takes time of the event
    loop."""

    def __init__(self) -> None:
        self._keys = MOST_CLOSE
        self._characters = MOST_OPENED

    def spell(self, path: str, keys: int) -> None:
        """Count the keys of the object at `path` that are to be compared letter by letter. Raises
        `PlanInvalid` if there are too many."""
        self._keys -= keys
        if self._keys < 0:
            raise _too_much(path, f"{MOST_CLOSE} keys with a spelling close to {FIELD!r}")

    def open(self, path: str, value: Any) -> Any:
        """The object or list that a string holds as JSON; `value` itself for anything else. Raises
        `PlanInvalid` if too much JSON was read already."""
        if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
            return value
        self._characters -= len(value)
        if self._characters < 0:
            raise _too_much(path, f"{MOST_OPENED} characters of JSON in strings")
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return parsed if isinstance(parsed, dict | list) else value


def _too_much(path: str, what: str) -> PlanInvalid:
    return PlanInvalid(
        f"the body has more than {what}, which is the limit whatever the server's options; send "
        "less",
        param=path or "body",
        code="body_too_complex",
    )


def misplaced(body: Any) -> str | None:
    """Path of a key in `body` that means steering and is not the field; None if there is none.

    A key with the value null is ignored. Raises `PlanInvalid` for a body that is too large to
    search, because a key that was not searched may mean steering.
    """
    care = _Care()
    waiting = [_At("", "", body, True, False)]
    while waiting:
        path, kind, value, near, carried = waiting.pop()
        if isinstance(value, list):
            inner = kind if kind.endswith("[]") else f"{kind}[]"
            for n, given in enumerate(value):
                part = care.open(path, given) if carried else given
                if isinstance(part, dict | list):
                    waiting.append(_At(f"{path}[{n}]", inner, part, False, carried))
            continue
        if near and isinstance(value, dict):
            care.spell(path, len(value))
        for key, given in value.items() if isinstance(value, dict) else ():
            if given is None or (key == FIELD and not path):
                continue
            if means_steering(key, near=near):
                return join(path, key)
            carries = near and key in CARRIERS
            # What a client notes for itself is text, and its words are its own.
            looks_into = carried or (carries and key != "metadata")
            part = care.open(join(path, key), given) if looks_into else given
            if isinstance(part, dict | list) and not _free(kind, key, value):
                inner = f"{kind}.{key}" if kind else key
                spelt = carries and key != "metadata"
                waiting.append(_At(join(path, key), inner, part, spelt, looks_into))
    return None


def join(path: str, key: str) -> str:
    """The path of `key` inside the object at `path`, short enough for a message."""
    return (f"{path}.{key}" if path else key)[:_LONGEST_PATH]


def _free(kind: str, key: str, holder: Mapping[str, Any]) -> bool:
    """Whether the client defines the keys of the value under `key` of `holder`. `kind`: the path of
    `holder`, with every place in a list as `[]`."""
    if key == "input" and kind in ("messages[].content[]", "messages[]"):
        return holder.get("type") in _TOOL_USES
    return _FREE.fullmatch(f"{kind}.{key}" if kind else key) is not None


def misplaced_header(headers: Mapping[str, str]) -> str | None:
    """Name of a header that means steering and is not the header `X-Steering`; None if there is
    none."""
    for name, value in headers.items():
        known = name.lower() in ("x-steering", "steering-receipt")
        if not known and value.strip() and means_steering(name):
            return name
    return None


def misplaced_query(pairs: Iterable[tuple[str, str]]) -> str | None:
    """The first name in a query that means steering, or whose value is JSON with such a key; None
    if there is none. Raises `PlanInvalid` for a query that is too large to search."""
    care = _Care()
    for name, value in pairs:
        if means_steering(name):
            return name
        parsed = care.open(f"query.{name}"[:_LONGEST_PATH], value)
        if isinstance(parsed, dict | list) and (inner := misplaced({name: parsed})) is not None:
            return inner
    return None


# Spellings

_PREFIX: Final = re.compile(r"(?:x[-_ ])?sv[-_ .]", re.IGNORECASE)
"""`sv_*`: another plugin's keys."""
_WHOLE: Final = frozenset({"sv", "svs"})
_STARTS: Final = ("steer", "xsteer")
_PARTS: Final = ("steering", "controlvector", "steervec")
"""Wherever they stand in a key."""
_MODELS: Final = ("steering", "steeringvector", "steeringvectors", "controlvector")
_NEAR_PARTS: Final = ("steer", "cvec", "controlvec")
_NEAR_WHOLE: Final = frozenset({"vectors", "vector"})
"""Where keys are few and known: other plugins' names, and our own inner key one level too high."""
_ALIKE: Final = str.maketrans("ѕтеіпгɡсоѵкτειοѡνӏ", "steinrgcovkteiowvl")
"""Letters of other alphabets that look like ours."""
_OTHERS: Final = frozenset({"string", "strings", "storing", "staring", "stirring"})
"""Words near to `steering` that mean something else."""
_FAR: Final = 2
"""Changes of one letter that make a word another one; 1 where its beginning is another."""
_LONGEST: Final = 64


@lru_cache(maxsize=4096)
def means_steering(key: str, *, near: bool = False) -> bool:
    """Whether `key` means steering. Case, spaces, punctuation, control characters and Unicode
    compatibility forms make no difference. With `near`, one or two wrong letters make no difference
    either."""
    if len(key) > 4096:
        key = key[:4096]
    if _PREFIX.match(key.strip()):
        return True
    folded = unicodedata.normalize("NFKD", key).casefold().translate(_ALIKE)
    word = "".join(c for c in folded if c.isalnum())
    if word in _WHOLE or word.startswith(_STARTS) or any(part in word for part in _PARTS):
        return True
    if not near or len(word) > _LONGEST or word in _OTHERS:
        return False
    if word in _NEAR_WHOLE or any(part in word for part in _NEAR_PARTS):
        return True
    return any(
        _distance(word, model) <= (_FAR if word[:2] == model[:2] else 1) for model in _MODELS
    )


def _distance(a: str, b: str) -> int:
    """Number of letters to insert, leave out, change, or swap with a neighbour. Above `_FAR` the
    number is only a lower bound."""
    if abs(len(a) - len(b)) > _FAR:
        return _FAR + 1
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, last, row = row, before, [i]
        for j, y in enumerate(b, 1):
            best = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and y == a[i - 2]:
                best = min(best, last[j - 2] + 1)
            row.append(best)
    return row[-1]
