"""Which keys of a request mean steering, however they are spelt.

vLLM, SDKs and other plugins ignore keys that they do not know, so a request that says `steer` or
`Steering` would come back unsteered with a 200. The server's guard and the engine's front end use
this one list.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Final

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
    """Whether `key` means steering. Case, blanks, punctuation, control characters and the forms of
    Unicode's compatibility tables make no difference. `near`: one or two wrong letters neither."""
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
    """Letters to insert, leave out, change, or swap with their neighbour; more than `_FAR` is only
    known to be more."""
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
