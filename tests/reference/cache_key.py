"""What the prefix cache must tell apart, the long and obvious way: all that is added, written out.

It must never import the product it is there to judge, so it takes the rules of a vector as given:
`added(vector, token)` is (step, coefficient), or None.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

Rules = Callable[[Any, int], tuple[int, float] | None]


def additions(vectors: Iterable[Any], token: int, added: Rules) -> list[Any]:
    """Everything that is added at one token: (site, layer, digest, step, coefficient), sorted."""
    found = []
    for vector in vectors:
        how = added(vector, token)
        if how is not None and how[1] != 0:
            found += [(site, layer, vector.digest, *how) for site, layer in vector.terms]
    return sorted(found)


def written_out(vectors: Iterable[Any], start: int, stop: int, added: Rules) -> str | None:
    """The key of a block of tokens [start, stop): each stretch of equal tokens with all that is
    added to them; None if nothing is."""
    parts: list[list[Any]] = []
    for token in range(start, stop):
        terms = additions(vectors, token, added)
        if terms and parts and parts[-1][1:] == [token, terms]:
            parts[-1][1] = token + 1
        elif terms:
            parts.append([token, token + 1, terms])
    return json.dumps(parts) if parts else None
