"""The tables of docs/composition.md, out of the results that stand in bench/results.

python -m bench.composition.page [RESULT ...]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tools.docs.markers import insert

RESULTS = Path(__file__).parents[1] / "results"
PAGE = Path(__file__).parents[2] / "docs" / "composition.md"
Found = Mapping[str, Any]


def cost(found: Found) -> Iterator[str]:
    """What bench.engine.dynamic found."""
    rounds, date = found["settings"]["rounds"], found["date"][:10]
    machine = found["machine"]
    yield (
        f"`python -m bench.engine.dynamic`, {date}, {machine['cores']} cores of an "
        f"{machine['processor']}, {found['settings']['model']}, the demo's vectors "
        f"{', '.join(found['settings']['vectors'])} at {found['settings']['start']:g}, from "
        f"which dynamic ones start; medians of {rounds} interleaved rounds, each ratio "
        "within its round."
    )
    yield ""
    yield (
        "| vectors | answer | `kl` | times a static token (quartiles) | target "
        "| steps a token | drafts kept |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for k, ways in found["dynamic_to_static"].items():
        for how, kinds in ways.items():
            for kind, one in kinds.items():
                low, high = one["quartiles"]
                target = f"{one['target']}: {_met(one)}" if "target" in one else ""
                kept = "" if one["drafts_kept"] is None else f"{one['drafts_kept']:.0%}"
                yield (
                    f"| {k} | {how} | {kind} | {one['ratio']:.2f} ({low:.2f} to {high:.2f}) "
                    f"| {target} | {one['steps_per_token']:.2f} | {kept} |"
                )
    others = found["neighbours"]
    yield ""
    yield (
        f"{others['requests']} ordinary requests take {others['ratio']:.2f} times as long for a "
        f"token beside a dynamic request with two vectors as without it (quartiles "
        f"{others['quartiles'][0]:.2f} to {others['quartiles'][1]:.2f}; target "
        f"{others['target']}: {_met(others)})."
    )
    yield ""
    lengths = found["ms_per_token_by_length"]
    yield (
        "| milliseconds a token at a text of | " + " | ".join(f"{n} tokens" for n in lengths) + " |"
    )
    yield "| --- |" + " --- |" * len(lengths)
    for name, title in (
        ("static", "static"),
        ("dynamic", "dynamic, two vectors, `kl: sum`"),
        ("without_cache", "the paper's way, without a cache"),
    ):
        yield f"| {title} | " + " | ".join(f"{one[name]:.0f}" for one in lengths.values()) + " |"


def steps(found: Found) -> Iterator[str]:
    """What bench.composition.steps found."""
    settings = found["settings"]
    yield (
        f"`python -m bench.composition.steps`, {found['date'][:10]}, {settings['model']}, vectors "
        f"at `{settings['site']}` of every layer, {settings['prompts']} prompts, greedy answers of "
        f"{settings['tokens']} tokens."
    )
    yield ""
    names = list(settings["measures"])
    yield "| way | coefficient | " + " | ".join(names) + " | perplexity (95%) | mean coefficients |"
    yield "| --- | --- |" + " --- |" * (len(names) + 2)
    for way, points in found["paths"].items():
        for one in points:
            if one["coefficient"] == 0 and way != "constant":
                continue
            low, high = one["interval"]
            chosen = ", ".join(f"{of['mean']:.2f}" for of in one.get("chosen", {}).values())
            measures = " | ".join(f"{one['measures'][name]:.2f}" for name in names)
            said = way if one["coefficient"] else "unsteered"
            yield (
                f"| {said} | {one['coefficient']:g} | {measures} "
                f"| {one['perplexity']:.2f} ({low:.2f} to {high:.2f}) | {chosen} |"
            )
    yield ""
    yield "Perplexity over that of `constant` at equal strength:"
    yield ""
    ways = found["compared_with_constant"]
    yield "| equal in | " + " | ".join(ways) + " |"
    yield "| --- |" + " --- |" * len(ways)
    for kind in next(iter(ways.values())):
        yield f"| {kind} | " + " | ".join(_ratio(way[kind]) for way in ways.values()) + " |"


def _ratio(one: Found) -> str:
    if "ratio" not in one:
        return "no strength in common"
    low, high = one["interval"]
    return f"{one['ratio']:.2f} ({low:.2f} to {high:.2f})"


def _met(one: Found) -> str:
    return "met" if one["met"] else "not met"


TABLES: Mapping[str, Callable[[Found], Iterator[str]]] = {
    "dynamic": cost,
    "composition_steps": steps,
    "composition_gemma": steps,
}
"""What makes a table of each results file."""


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in sys.argv[1:] or TABLES:
        found = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        text = insert(text, name, "\n".join(TABLES[name](found)))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
