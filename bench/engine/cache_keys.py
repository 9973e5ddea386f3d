"""What the steering of a block costs the prefix cache: time and length of its key.

Beside the keys that are used, the long form that says the same with all that is added written out
(`tests/reference/cache_key.py` is it in the obvious way); per block of 16 tokens.

    python -m bench.engine.cache_keys

Prints one JSON object. Times are of the processor, so that other programs do not count.
"""

from __future__ import annotations

import json
import time
from random import Random

from steersman.steering.plan import Plan, PlannedVector
from steersman.steering.plan.cache_key import CacheKeys
from steersman.vectors.tensors import HookPoint

BLOCK = 16
PROMPT = 32_768
SHAPES = {"1 x 2": (1, 2, 0), "4 x 32": (4, 32, 0), "8 x 80": (8, 80, 0)} | {
    "8 x 30": (8, 30, 0),
    "8 x 90, schedules of 4096": (8, 90, 4096),
}
"""Vectors, terms of each, and how long a schedule each has."""


def plan(vectors: int, terms: int, schedule: int) -> Plan:
    """One such plan, of which no two coefficients are alike."""
    rng = Random(0)
    places = tuple(sorted(HookPoint(f"site{n % 3}", n // 3) for n in range(terms)))
    return Plan(
        tuple(
            PlannedVector(
                f"sha256:{n:064x}",
                rng.random(),
                places,
                "all",
                tuple(rng.random() for _ in range(schedule)),
                hold=bool(schedule),
            )
            for n in range(vectors)
        )
    )


def long_form(plan: Plan, start: int, stop: int) -> str:
    """All that is added, written out, as one string."""
    parts = []
    whole = not plan.varies
    for first in range(start, stop, stop - start if whole else 1):
        terms = sorted(
            (site, layer, vector.digest, -1, vector.coefficient_at(first))
            for vector in plan.vectors
            for site, layer in vector.terms
        )
        parts.append((first, stop if whole else first + 1, terms))
    return json.dumps(parts, separators=(",", ":"))


def main() -> None:
    """Measure each shape."""
    found = {}
    for name, shape in SHAPES.items():
        one = plan(*shape)
        text = one.to_json()
        began = time.process_time()
        read = Plan.from_json(text)
        parsed = time.process_time()
        keys = CacheKeys(read, PROMPT)
        made = [keys.of(start, start + BLOCK) for start in range(0, PROMPT, BLOCK)]
        ended = time.process_time()
        moving = [keys.of(start, start + BLOCK) for start in range(0, 4096, BLOCK)]
        moved = time.process_time()
        written = [long_form(read, start, start + BLOCK) for start in range(0, 320, BLOCK)]
        wrote = time.process_time()
        found[name] = {
            "plan_bytes": len(text),
            "plan_read_ms": round(1e3 * (parsed - began), 2),
            "prompt_of_32k_ms": round(1e3 * (ended - parsed), 2),
            "block_us": round(1e6 * (ended - parsed) / len(made), 2),
            "block_of_first_4096_us": round(1e6 * (moved - ended) / len(moving), 2),
            "key_bytes": max(len(key or "") for key in made),
            "long_form_block_us": round(1e6 * (wrote - moved) / len(written), 1),
            "long_form_bytes": max(map(len, written)),
        }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
